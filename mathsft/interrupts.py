"""What Ctrl-C does. Nothing that finished is ever lost, so it may end a command at once; workers get an orderly end first.

Python's own way, an exception wherever the program happens to be, is not used: where that is an import, a destructor or the
cleaning up after a first Ctrl-C, it ends in a traceback.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from mathsft.errors import INTERRUPTED

if TYPE_CHECKING:
    from asyncio import Task  # which takes longer to import than all else here

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int

DUMB_TERMINALS = ("dumb", "unknown")
"""Values of TERM for terminals that obey no control characters."""
SHOW_CURSOR = "\x1b[?25h"
"""Hidden while progress is shown."""


def end_silently() -> None:
    """Have Ctrl-C end the process without a word, as befits a command that has not begun."""
    _handle(signal.SIG_DFL)


@contextmanager
def ending_at_once(last_words: str) -> Iterator[None]:
    """Have Ctrl-C end the process with a line on stderr, whatever it does; what it started ends with it."""

    def end(signum: int, frame: FrameType | None) -> None:
        cursor = SHOW_CURSOR if sys.stderr.isatty() and os.environ.get("TERM") not in DUMB_TERMINALS else ""
        said = f"{cursor}\n{last_words}\n".encode(sys.stderr.encoding, sys.stderr.errors or "backslashreplace")
        with suppress(OSError):  # nobody hears it
            os.write(2, said)  # print would fail if it was interrupted itself
        os._exit(INTERRUPTED)

    with _handled(end):
        yield


@contextmanager
def raising() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt, for what waits for that."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def cancelling(task: "Task[Any]") -> Iterator[None]:
    """Have the first Ctrl-C cancel the task; the second does what the first would have done before."""
    before = signal.getsignal(signal.SIGINT)

    def cancel(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        task.get_loop().call_soon_threadsafe(task.cancel)

    with _handled(cancel):
        yield


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    _handle(handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _handle(handler: Handler) -> None:
    # Ignored is how a shell starts what runs in its background: Ctrl-C is meant for another command.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
