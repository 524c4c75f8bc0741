"""Reads the raw rows of a JSONL file or a hub data set, each with its number."""

import codecs
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mathsft.errors import UserError, excerpt

_HUB_SOURCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
"""A hub data set: "org/name", then "/config" if the data set has several, then ":split" unless the split is train."""

_FILE_SUFFIXES = (".json", ".jsonl", ".gz", ".parquet", ".csv")
"""A name with one of these suffixes is a file, even if it looks like a hub id."""

_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a ZIP archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"[": "one JSON array",
}
"""First bytes of files that hold rows in other formats than JSONL."""


def read_rows(source: str) -> Iterator[tuple[int, object]]:
    """Yield each row with its number (in a file: that of its line, without blank lines); raises UserError if unreadable."""
    path = Path(source).expanduser()
    hub = _HUB_SOURCE.fullmatch(source)
    if path.is_dir():
        raise UserError(f"{source!r} is a folder; give one JSONL file, one JSON object a line (join several files with cat)")
    if path.is_file():
        yield from _file_rows(path)
    elif hub and path.suffix not in _FILE_SUFFIXES:
        yield from _hub_rows(source, hub["repository"], hub["config"], hub["split"] or "train")
    else:
        raise UserError(
            f"problems cannot be read from {source!r}: there is no such file; give a JSONL file or a hub id (org/name)"
        )


def parse_row(line: bytes) -> object:
    """Return the JSON value of a line; raises ValueError with the line and what to change."""
    try:
        return json.loads(line.decode("utf-8-sig").strip())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{excerpt(line)} is not JSON ({error}); write one JSON object a line, in UTF-8") from None


def _file_rows(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            for first_bytes, name in _OTHER_FORMATS.items() if number == 1 else ():
                if line.startswith(first_bytes):
                    raise UserError(f"{path} is {name}; convert it to JSONL, one JSON object a line, in UTF-8")
            if line.removeprefix(codecs.BOM_UTF8).strip():
                try:
                    row = parse_row(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: {error}") from None
                yield number, row


def _hub_rows(source: str, repository: str, config: str | None, split: str) -> Iterator[tuple[int, object]]:
    """Yield the rows of a data set that the library `datasets` downloads."""
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise UserError(
            f"{source!r} is not a local file, and hub data sets need the package datasets, which is not installed; "
            "run `uv pip install datasets`, or the same with pip, or give a JSONL file"
        ) from None
    try:
        rows = datasets.load_dataset(repository, config, split=split)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source!r} is not a local file, and the download from the hub failed ({excerpt(error)}); give a JSONL file, "
            "or org/name[/config][:split] of a data set that this machine can reach"
        ) from error
    yield from enumerate(rows, start=1)
