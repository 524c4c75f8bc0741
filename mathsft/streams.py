"""The process's own stdout and stderr: no text, no reader that went away and no full disk makes a write fail."""

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

READABLE = "mathsft.readable"
"""The name of this module's error handler among those of Python's encodings."""

_IN_ASCII = {
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”„", '"'),
    **{"…": "...", "×": "x", "±": "+/-", "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "·": ".", "•": "*", "\u00a0": " "},
}


class _Sink(io.FileIO):
    """The file below a standard stream: a write never fails; the first that should have failed is told."""

    def __init__(self, descriptor: int, tell: Callable[[OSError], None]) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._tell, self._was_told = tell, False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._was_told:
                self._was_told = True
                self._tell(error)
            return len(data)


@contextmanager
def sheltered(tell: Callable[[OSError], None]) -> Iterator[None]:
    """Have stdout and stderr take everything while the body runs; tell hears why stdout loses what is written from now on.

    That is BrokenPipeError where a reader closed it, as `head` does, and has seen enough. What the encoding cannot show
    becomes ASCII.
    """
    _open_missing()
    codecs.register_error(READABLE, _readable)
    before = sys.stdout, sys.stderr
    sys.stderr = _shelter(sys.stderr, 2, lambda error: None)
    sys.stdout = _shelter(sys.stdout, 1, tell)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def readable(text: str, encoding: str) -> str:
    """Return the text as a stream of that encoding shows it."""
    codecs.register_error(READABLE, _readable)
    return text.encode(encoding, READABLE).decode(encoding, "surrogateescape")


def _open_missing() -> None:
    """Open what the process was started without: the next file, such as a database, would take its number and its text."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - a number, and open as long as the process


def _shelter(stream: TextIO | None, descriptor: int, tell: Callable[[OSError], None]) -> TextIO:
    """Return a stream like the given one, which was never opened if it is None, on a sink; one without a file as it is."""
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(_Sink(descriptor, tell)), "utf-8", READABLE)
    try:
        sink = _Sink(stream.fileno(), tell)
    except OSError:  # a test's
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(sink),
        stream.encoding,
        READABLE,
        line_buffering=bool(stream.line_buffering),
        write_through=getattr(stream, "write_through", False),
    )


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for the first character that cannot be encoded, and the place behind it.

    A byte of a file's name that could not be decoded is that byte again.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return bytes([ord(character) - 0xDC00]), after
    return _IN_ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii"), after
