"""Report and dashboard in a real browser: what they say, that they fit the screen, and that they ask no other machine."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from mathsft.commands.dashboard_pages import refresh_study
from mathsft.config.schema import Experiment
from mathsft.layout import StudyLayout
from mathsft.records import Problem
from mathsft.reporting.study_report import write_report
from mathsft.study.dashboard_server import Shown, dashboard_server
from tests.study.toys import Driver, Kills, study_config

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from tests.browser.chromium import LOCAL, NARROW, PROGRAM, WIDE, chromium, visit  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: apt-get install chromium"),
]
ATTACK = "What is 6 * 7? <img src=http://example.com/a.png> ![x](http://example.com/b.png) <script>alert(1)</script>"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> StudyLayout:
    """A study of ten trials and its final run, with problems of several levels and subjects, one of them an attack."""
    folder = tmp_path_factory.mktemp("studies") / "toy"
    driver, config = Driver(folder, experiment, Kills()), study_config(num_trials=10)
    subjects = ("Algebra", "Counting & Probability", "Number Theory")
    driver.store.record_problems(
        Problem(f"p{number:04}", ATTACK, "", "42", 1 + number % 5, subjects[number % 3]) for number in range(50)
    )
    driver.store.record_settings(
        {
            f"search.{name}.{field}": value
            for name, given in config.search.items()
            for field, value in given.model_dump().items()
        }
    )
    driver.study(config)
    driver.final(config)
    write_report(driver.store, driver.layout)
    refresh_study(driver.store)
    driver.store.close()
    return driver.layout


@pytest.fixture(scope="module")
def address(layout: StudyLayout) -> Iterator[str]:
    """The dashboard's address."""
    driver_database = Driver(layout.root, Experiment.model_construct(), Kills()).database
    with dashboard_server([Shown(layout, driver_database)], 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_report_fits_the_screen_and_answers_first(
    layout: StudyLayout, browser: "Browser", width: int, scheme: str
) -> None:
    with visit(browser, layout.report_page.as_uri(), width, "dark" if scheme == "dark" else "light") as opened:
        page = opened.page
        for question in ("Winner", "Gain", "Is it proven?", "Next step"):
            box = page.get_by_text(question, exact=True).bounding_box()
            assert box is not None and box["y"] < (900 if width == WIDE else 1400), "within the first screens"
        shown, hidden = ("wide", "narrow") if width == WIDE else ("narrow", "wide")
        assert page.locator(f"figure .{shown}:visible").count() == page.locator("figure:visible").count() > 5
        assert page.locator(f"figure .{hidden}:visible").count() == 0
        assert page.locator("figure").count() == page.locator("figcaption").count() > 6
        assert not page.get_by_text("settings of all runs").is_hidden() and page.get_by_text("data.source").first.is_hidden()
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        opened.keep(f"report-{scheme}-{width}")
        assert opened.overflow == 0 and opened.clipped("h1, h2, h3, h4, p, li, svg, figcaption, summary") == []
        assert opened.hosts <= {""} and opened.errors == []
        style = page.evaluate_handle("getComputedStyle(document.body)")
        ink, paper = style.evaluate("style => [style.color, style.backgroundColor]")
        assert contrast(ink, paper) > 7
        assert (brightness(paper) < brightness(ink)) == (scheme == "dark")


def test_texts_of_figures_do_not_cover_each_other(layout: StudyLayout, browser: "Browser") -> None:
    for width in (WIDE, NARROW):
        with visit(browser, layout.report_page.as_uri(), width) as opened:
            opened.page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
            covered = opened.page.evaluate(
                """() => [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).flatMap(svg => {
                    const texts = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim());
                    const boxes = texts.map(text => text.getBoundingClientRect()), frame = svg.getBoundingClientRect();
                    const outside = texts.filter((_, at) =>
                        boxes[at].right > frame.right + 1 || boxes[at].left < frame.left - 1);
                    const over = texts.filter((_, at) => boxes.some((other, place) => place > at
                        && Math.min(boxes[at].right, other.right) - Math.max(boxes[at].left, other.left) > 2
                        && Math.min(boxes[at].bottom, other.bottom) - Math.max(boxes[at].top, other.top) > 4));
                    return [...outside, ...over].map(text => svg.getAttribute('aria-label') + ': ' + text.textContent);
                })"""
            )
            assert covered == []


def test_the_report_prints(layout: StudyLayout, browser: "Browser", tmp_path: Path) -> None:
    with visit(browser, layout.report_page.as_uri(), NARROW) as opened:
        opened.page.emulate_media(media="print")
        assert opened.page.locator("figure .wide:visible").count() == opened.page.locator("figure:visible").count() > 5
        printed = opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert printed.startswith(b"%PDF") and b"/Count 0" not in printed


def test_the_dashboard_shows_the_verdict_intervals_and_links(address: str, browser: "Browser") -> None:
    with visit(browser, f"{address}studies/toy") as opened:
        assert opened.shows("Accuracy on 50 search problems, with 95 % intervals")
        opened.page.locator(".errorbar").first.wait_for(state="attached")
        assert opened.page.get_by_text("training.learning_rate").count() == 0, "short names of parameters"
        opened.keep("dashboard-study")
        assert opened.overflow == 0
        assert opened.hosts <= set(LOCAL) and opened.errors == []
    with visit(browser, f"{address}dashboard/studies/1/note") as opened:
        assert opened.shows("Most accurate trials") and opened.shows("Is it proven?")
        opened.keep("dashboard-note")
        assert opened.overflow == 0
        opened.page.get_by_role("link", name="report").click()
        opened.page.wait_for_url("**/studies/toy/report")
        assert opened.page.locator("figure").count() > 6
        assert opened.hosts <= set(LOCAL) and opened.errors == []


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_dashboard_shows_a_trial_with_problems_and_gold_answers(address: str, browser: "Browser", width: int) -> None:
    with visit(browser, f"{address}studies/toy/trials/0", width) as opened:
        assert (
            opened.shows("trial-0: finished") and opened.shows("Gain on the same problems") and opened.shows("Gold answer:")
        )
        assert opened.page.get_by_text("alert(1)").count() > 0, "the attack is text"
        opened.page.get_by_text("mathsft replay toy trial-0").wait_for()
        opened.keep(f"dashboard-trial-{width}")
        # The dashboard's own layout is made for wide screens.
        assert opened.overflow == 0 or width == NARROW
        assert opened.hosts <= set(LOCAL) and opened.errors == []


def test_the_responses_open_as_a_table(address: str, browser: "Browser") -> None:
    with visit(browser, f"{address}studies/toy/trials/0", height=2400) as opened:
        assert opened.shows("responses-search.csv")
        opened.page.get_by_role("button", name="show artifact").or_(
            opened.page.locator("button[aria-label*='table' i]")
        ).first.click()
        assert opened.shows("gold") and opened.shows("problem_id")
        opened.keep("dashboard-artifact")
        assert opened.hosts <= set(LOCAL) and opened.errors == []


def brightness(color: str) -> float:
    """Return the relative luminance of "rgb(r, g, b)" by WCAG 2."""
    channels = [float(part) / 255 for part in color.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours by WCAG 2, from 1 to 21."""
    light, dark = sorted((brightness(first), brightness(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
