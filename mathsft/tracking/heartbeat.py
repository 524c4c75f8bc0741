"""Shows current activities with their durations, so that the terminal is never silent for ten seconds, and warnings."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

from rich.console import Console, ConsoleRenderable, RenderableType, RenderHook
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mathsft import formats

SILENCE_SECONDS = 8.0
"""After this time without output a plain line shows the activities; the time is checked every BEAT_SECONDS."""
BEAT_SECONDS = 1.0
REFRESHES_PER_SECOND = 4
BAR_WIDTH = 24
SEPARATOR = "  "


@dataclass(frozen=True)
class Activity:
    """An activity, described in words, and the time on the heartbeat's clock at which it began."""

    words: str | Callable[[], str]
    """A function returns the current description."""
    since: float

    def __str__(self) -> str:
        return self.words if isinstance(self.words, str) else self.words()


@dataclass(frozen=True)
class Progress:
    """The progress of a task and its current activities; without activities the current stage is shown."""

    activities: tuple[Activity, ...] = ()
    share_done: float | None = None
    """None if unknown."""
    time_left: str = ""
    """In words; empty if unknown."""
    facts: tuple[str, ...] = ()
    """Further facts, in words."""


class Heartbeat(RenderHook):
    """Writes lines to a rich console and shows the current activities between them.

    On a terminal a line at the bottom shows the activities. Elsewhere a plain line is written after SILENCE_SECONDS
    without output. The heartbeat is a context manager; outside of it the activities are not shown.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._start = self._last = clock()
        self._stages: tuple[Activity, ...] = ()
        self._progress = Progress()  # both are replaced, never modified: other threads read them
        self._stack = ExitStack()
        console.push_render_hook(self)

    def __enter__(self) -> Self:
        moving = Live(
            console=self.console,
            get_renderable=self._moving_line,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._stack.enter_context(moving if self.console.is_interactive else _repeated(self.beat, BEAT_SECONDS))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def during(self, words: str | Callable[[], str]) -> Iterator[None]:
        """Show these words while the body runs, unless an inner stage or the activities of a progress are shown."""
        before = self._stages
        self._stages = (*before, Activity(words, self.clock()))
        try:
            yield
        finally:
            self._stages = before

    def show(self, progress: Progress) -> None:
        """Show this progress from now on."""
        self._progress = progress

    def tell(self, *parts: str) -> None:
        """Write a line: the elapsed time, then the parts that are not empty."""
        line = SEPARATOR.join([f"[{self.clock() - self._start:7.1f}s]", *(part for part in parts if part)])
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Note the time of this output; rich calls this before each output."""
        self._last = self.clock()
        return renderables

    def beat(self) -> None:
        """Write the activities if nothing was written for SILENCE_SECONDS."""
        if self.clock() - self._last >= SILENCE_SECONDS:
            self.tell(*self._parts())

    def _parts(self) -> list[str]:
        """Return the time left, the activities with their durations, and the facts, in words."""
        progress, now = self._progress, self.clock()
        activities = progress.activities or self._stages[-1:]
        durations = [f"{activity}, {formats.running_seconds(now - activity.since)}" for activity in activities]
        return [part for part in (progress.time_left, *durations, *progress.facts) if part]

    def _moving_line(self) -> RenderableType:
        text = Text(SEPARATOR.join(self._parts()), no_wrap=True, overflow="ellipsis")
        share_done = self._progress.share_done
        if share_done is None:
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1.0, completed=share_done, width=BAR_WIDTH), text)
        return line


@contextmanager
def _repeated(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Have a thread execute the action at this interval while the body runs."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def warnings_shown(heartbeat: Heartbeat) -> Iterator[None]:
    """Write the first line of each warning from mathsft's loggers while the body runs; the log file has the full text."""
    handler, logger = _Terminal(heartbeat), logging.getLogger("mathsft")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Terminal(logging.Handler):
    def __init__(self, heartbeat: Heartbeat) -> None:
        super().__init__(logging.WARNING)
        self._heartbeat = heartbeat

    def emit(self, record: logging.LogRecord) -> None:
        first_line = record.getMessage().partition("\n")[0]
        self._heartbeat.tell("warning", first_line)
