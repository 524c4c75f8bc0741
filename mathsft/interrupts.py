"""Handlers of SIGINT (Ctrl-C) for the parts of a command: end the process, raise KeyboardInterrupt, or cancel a task.

A command may end at any moment, since finished work is already stored. Python's default, a KeyboardInterrupt at any
instruction, would show a traceback during an import, in a destructor or in the cleanup after a first Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from mathsft.errors import INTERRUPTED

if TYPE_CHECKING:
    from asyncio import Task  # takes longer to import than everything else here

_Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int

_DUMB_TERMINALS = ("dumb", "unknown")
"""Values of TERM for terminals without control sequences."""
_SHOW_CURSOR = "\x1b[?25h"
"""Control sequence that shows the cursor. The cursor is hidden while progress is displayed."""


def end_silently() -> None:
    """Let Ctrl-C end the process without a message, for the time before a command begins."""
    _set_handler(signal.SIG_DFL)


@contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """Let Ctrl-C print the message on stderr and end the process immediately; its child processes end with it."""

    def end(signum: int, frame: FrameType | None) -> None:
        cursor = _SHOW_CURSOR if sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB_TERMINALS else ""
        line = f"{cursor}\n{message}\n".encode(sys.stderr.encoding, sys.stderr.errors or "backslashreplace")
        with suppress(OSError):  # stderr may be closed
            os.write(2, line)  # print is not reentrant: it fails if the signal interrupted a print
        os._exit(INTERRUPTED)

    with _handled(end):
        yield


def raising() -> AbstractContextManager[None]:
    """Let Ctrl-C raise KeyboardInterrupt, for code that handles it, such as a pager."""
    return _handled(signal.default_int_handler)


@contextmanager
def cancelling(task: "Task[Any]") -> Iterator[None]:
    """Let the first Ctrl-C cancel the task and restore the handler that was set before, which handles the second."""
    before = signal.getsignal(signal.SIGINT)

    def cancel(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        task.get_loop().call_soon_threadsafe(task.cancel)

    with _handled(cancel):
        yield


@contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    _set_handler(handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _set_handler(handler: _Handler) -> None:
    # A shell starts background processes with SIGINT ignored, because Ctrl-C is meant for the foreground command.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
