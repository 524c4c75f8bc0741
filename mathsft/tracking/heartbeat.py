"""Keeps the terminal from falling silent: what is under way, and for how long. It knows of no runs: others tell it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleRenderable, RenderableType, RenderHook
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SILENCE_SECONDS = 8.0
"""After which a plain line says what is under way; looked at every BEAT_SECONDS, so that ten seconds are never silent."""
BEAT_SECONDS = 1.0
REFRESHES_PER_SECOND = 4
BAR_WIDTH = 24
PARTING = "  "


@dataclass(frozen=True)
class Activity:
    """Something that goes on, in words, and since when on the heartbeat's clock."""

    words: str | Callable[[], str]
    """As a function: what to say as of now."""
    since: float


@dataclass(frozen=True)
class Progress:
    """How far something is that consists of activities: where none is under way, its stage is shown."""

    activities: tuple[Activity, ...]
    share_done: float | None
    """None where that is not known."""
    time_left: str
    """In words; empty where that is not known."""
    facts: tuple[str, ...]
    """What else is known, in words."""


class Heartbeat(RenderHook):
    """Writes lines to a rich console and, between them, what is under way.

    On a terminal that is a moving line below; elsewhere a plain one whenever nothing was written for SILENCE_SECONDS, by
    whomever. It is a context manager: outside of it neither is shown.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._start = self._last = clock()
        self._stages: tuple[Activity, ...] = ()
        self._progress: Progress | None = None  # these are replaced, never changed: other threads read them
        self._stack = ExitStack()
        console.push_render_hook(self)

    def __enter__(self) -> Self:
        if self.console.is_interactive:
            self._stack.enter_context(
                Live(
                    console=self.console,
                    get_renderable=self._moving_line,
                    refresh_per_second=REFRESHES_PER_SECOND,
                    transient=True,
                )
            )
        else:
            self._stack.enter_context(_repeated(self.beat, BEAT_SECONDS))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @contextmanager
    def during(self, words: str | Callable[[], str]) -> Iterator[None]:
        """Say that this goes on while the body runs, unless a stage inside or a progress says more."""
        before = self._stages
        self._stages = (*before, Activity(words, self.clock()))
        try:
            yield
        finally:
            self._stages = before

    def show(self, progress: Progress | None) -> None:
        """Say from now on how far something is; None ends that."""
        self._progress = progress

    def tell(self, *parts: str) -> None:
        """Write a line: when, and its parts."""
        line = PARTING.join([f"[{self.clock() - self._start:7.1f}s]", *(part for part in parts if part)])
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Hear from rich that something is written."""
        self._last = self.clock()
        return renderables

    def beat(self) -> None:
        """Write a line if it was silent for too long."""
        if self.clock() - self._last >= SILENCE_SECONDS:
            self.tell(*self._parts())

    def _parts(self) -> list[str]:
        """Return what is under way and what is known about it, in words."""
        progress, now = self._progress, self.clock()
        activities = (progress.activities if progress is not None else ()) or self._stages[-1:]
        said = [f"{_words(activity)}, {_duration(now - activity.since)}" for activity in activities]
        parts = [progress.time_left, *said, *progress.facts] if progress is not None else said
        return [part for part in parts if part]

    def _moving_line(self) -> RenderableType:
        text = Text(PARTING.join(self._parts()), no_wrap=True, overflow="ellipsis")
        progress = self._progress
        if progress is None or progress.share_done is None:
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1.0, completed=progress.share_done, width=BAR_WIDTH), text)
        return line


@contextmanager
def _repeated(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Have a thread do something again and again while the body runs, whatever that does."""
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


def _words(activity: Activity) -> str:
    return activity.words if isinstance(activity.words, str) else activity.words()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes >= 2 else f"{seconds:.0f} s"
