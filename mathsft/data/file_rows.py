"""Reads the rows of one file: JSONL, a JSON array (both also compressed with gzip), or Parquet, in memory of a fixed size.

The first bytes tell the format, not the name. pyarrow and ijson are imported only for files of their formats.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

from mathsft.errors import UserError, excerpt

NumberedRow: TypeAlias = tuple[int, object]
"""A row and its number in its file, from 1: that of its line, or without lines its place."""

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
"""The names of files with rows end so; other files of a folder are not read."""

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_OTHER_FORMATS = {
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a ZIP archive",
    b"ARROW1": "an Arrow file",
}
"""First bytes of files that hold rows in formats that are not read."""
_BATCH_ROWS = 256
_HEAD_BYTES = 4096


def file_rows(path: Path) -> Iterator[NumberedRow]:
    """Yield each row of a file with its number; raises UserError if the file cannot be read."""
    with path.open("rb") as file:
        start = file.read(8)
    for first_bytes, name in _OTHER_FORMATS.items():
        if start.startswith(first_bytes):
            raise UserError(f"{path} is {name}; convert it to JSONL, one JSON object a line, in UTF-8, or to Parquet")
    if start.startswith(_PARQUET):
        yield from _parquet_rows(path)
    elif start.startswith(_GZIP):
        try:
            with gzip.open(path, "rb") as content:
                yield from _json_rows(path, io.BufferedReader(content))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: the gzip data cannot be read ({error}); fetch the file again") from None
    else:
        with path.open("rb") as content:
            yield from _json_rows(path, content)


def parse_row(line: bytes) -> object:
    """Return the JSON value of a line; raises ValueError with the line and what to change."""
    try:
        return json.loads(line.decode("utf-8-sig").strip())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{excerpt(line)} is not JSON ({error}); write one JSON object a line, in UTF-8") from None


def _json_rows(path: Path, content: io.BufferedReader) -> Iterator[NumberedRow]:
    """Yield the rows of JSONL, or of a JSON array, which begins with a bracket."""
    head = content.peek(_HEAD_BYTES)
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        if head.startswith(codecs.BOM_UTF8):
            content.read(len(codecs.BOM_UTF8))
        yield from _array_rows(path, content)
        return
    for number, line in enumerate(content, start=1):
        if line.removeprefix(codecs.BOM_UTF8).strip():
            try:
                row = parse_row(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from None
            yield number, row


def _array_rows(path: Path, content: IO[bytes]) -> Iterator[NumberedRow]:
    import ijson

    number = 0
    try:
        for number, row in enumerate(ijson.items(content, "item", use_float=True), start=1):
            yield number, row
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0].strip()
        raise UserError(
            f"{path}: the JSON array cannot be read after its row {number} ({reason}); correct it (JSON has no NaN), or "
            "write JSONL, one JSON object a line, in UTF-8"
        ) from None


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        # Without pre_buffer only the pages of a batch are in memory, not a whole row group.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: the Parquet file cannot be read ({reason}); fetch it again") from None
