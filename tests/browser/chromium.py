"""Opens pages in headless Chromium: at a width, in light or dark, with a record of what the page asks for and prints."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

WIDE, NARROW = 1400, 400
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Playwright's own browser cannot be installed from a package registry; Debian's package `chromium` can."""
LOCAL = ("127.0.0.1", "localhost", "")
SCREENSHOTS = Path(__file__).parents[2] / ".screenshots"
"""The folder, which git ignores, with what the last tests saw."""


@dataclass
class Visit:
    """A page that is open, and what happened on it."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    """The hosts of all requests; "" for a file."""
    errors: list[str] = field(default_factory=list)
    """What the page wrote as errors, and exceptions of its scripts."""

    @property
    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return width

    def clipped(self, selector: str) -> list[str]:
        """Return the texts of the elements that reach out of the window to the right, but for those in a scrolled box."""
        found: list[str] = self.page.evaluate(
            """selector => [...document.querySelectorAll(selector)]
                .filter(element => element.checkVisibility() && !element.closest('.table'))
                .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
                .map(element => element.textContent.slice(0, 80))""",
            selector,
        )
        return found

    def shows(self, text: str) -> bool:
        """Wait until the page shows a text, at most half a minute."""
        self.page.get_by_text(text).first.wait_for(timeout=30_000)
        return True

    def keep(self, name: str) -> Path:
        """Keep a screenshot of the whole page."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; as root it needs to run without its sandbox."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=flags)
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Browser, address: str, width: int = WIDE, scheme: Literal["light", "dark"] = "light", height: int = 900
) -> Iterator[Visit]:
    """Open a page in a window of its own. Only this machine is reachable: other requests are noted and refused."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    opened = Visit(page)
    page.on("request", lambda request: opened.hosts.add(urlsplit(request.url).hostname or ""))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("console", lambda message: opened.errors.append(message.text) if message.type == "error" else None)
    context.route(
        "**/*", lambda route: route.continue_() if (urlsplit(route.request.url).hostname or "") in LOCAL else route.abort()
    )
    page.goto(address)
    yield opened
    context.close()
