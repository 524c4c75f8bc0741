"""Makes writes to the process's stdout and stderr safe: no character, closed pipe or full disk makes them fail."""

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_ERROR_HANDLER = "mathsft.readable"
"""Name under which this module registers its error handler for encodings."""

_IN_ASCII = {
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”„", '"'),
    **{"…": "...", "×": "x", "±": "+/-", "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "·": ".", "•": "*", "\u00a0": " "},
}


class _Sink(io.FileIO):
    """The raw file of a standard stream. A write that fails loses its data; the first error is passed to `on_error`."""

    def __init__(self, descriptor: int, on_error: Callable[[OSError], None]) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._on_error = on_error

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            on_error, self._on_error = self._on_error, lambda error: None
            on_error(error)
            return len(data)


@contextmanager
def safe_streams(on_error: Callable[[OSError], None]) -> Iterator[None]:
    """Make no write to stdout or stderr fail while the body runs; `on_error` receives the first error of stdout.

    It is BrokenPipeError if the reader closed the pipe, as `head` does. Characters that the encoding lacks are written in
    ASCII.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stderr = _safe_stream(sys.stderr, 2, lambda error: None)
    sys.stdout = _safe_stream(sys.stdout, 1, on_error)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def readable(text: str, encoding: str) -> str:
    """Return the text as a safe stream with this encoding shows it."""
    return text.encode(encoding, _ERROR_HANDLER).decode(encoding, "surrogateescape")


def _open_missing() -> None:
    """Open the standard streams that are closed: the next file opened, such as a database, would get their descriptor."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - stays open until the process ends


def _safe_stream(stream: TextIO | None, descriptor: int, on_error: Callable[[OSError], None]) -> TextIO:
    """Return a stream like the given one (None if it was closed) that writes to a sink; a stream without a file as it is."""
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(_Sink(descriptor, on_error)), "utf-8", _ERROR_HANDLER)
    try:
        sink = _Sink(stream.fileno(), on_error)
    except OSError:  # pytest replaces the streams by objects without a file
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(sink),
        stream.encoding,
        _ERROR_HANDLER,
        line_buffering=bool(stream.line_buffering),
        write_through=getattr(stream, "write_through", False),
    )


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the replacement of the first character that cannot be encoded, and the position after it.

    A surrogate that stands for an undecodable byte of a file name becomes that byte again.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return bytes([ord(character) - 0xDC00]), after
    return _IN_ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii"), after


codecs.register_error(_ERROR_HANDLER, _readable)
