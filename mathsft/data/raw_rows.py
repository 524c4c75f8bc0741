"""Reads the raw rows of a data set, each with its place: of a file, of a folder or pattern of files, or of the hub."""

import importlib
import re
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from mathsft.data.file_rows import SUFFIXES, file_rows
from mathsft.errors import UserError, excerpt

_HUB_SOURCE = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
"""A hub data set: "org/name", then "/config" if the data set has several, ":split" unless the split is train, and
"@revision", a commit, tag or branch, to pin it."""

_FILE_SUFFIXES = (".json", ".jsonl", ".gz", ".parquet", ".csv")
"""A name with one of these suffixes is a file, even if it looks like a hub id."""

_SHARD = re.compile(r"(?P<split>.+?)-\d+-of-\d+(?:-[0-9a-f]+)?\.")
"""The name of one of several files of a split, as data sets on the hub have them: train-00000-of-00002.parquet."""


class Place(NamedTuple):
    """Where a row is: its file (or hub data set) and its number there, and which of the row's solutions it has."""

    file: str
    number: int
    solution: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def read_rows(source: str) -> Iterator[tuple[Place, object]]:
    """Yield each row with its place, in the order of the files' names; raises UserError if the source is unreadable."""
    path = Path(source).expanduser()
    hub = _HUB_SOURCE.fullmatch(source)
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = _shards(source, path.iterdir())
    elif has_magic(source):
        paths = _shards(source, path.parent.glob(path.name))
    elif hub and path.suffix not in _FILE_SUFFIXES:
        for number, row in _hub_rows(source, hub["repository"], hub["config"], hub["split"] or "train", hub["revision"]):
            yield Place(source, number), row
        return
    else:
        raise UserError(
            f"problems cannot be read from {source!r}: there is no such file; give a file (JSONL, JSON, Parquet), a folder "
            "of such files, or a hub id (org/name)"
        )
    for file in paths:
        for number, row in file_rows(file):
            yield Place(str(file), number), row


def _shards(source: str, candidates: Iterator[Path]) -> list[Path]:
    """Return the files with rows in the order of their names; raises UserError if there is none, or of several splits."""
    files = sorted(path for path in candidates if path.name.endswith(SUFFIXES) and path.is_file() and path.name[0] != ".")
    if not files:
        raise UserError(
            f"{source!r} has no file that ends in {', '.join(SUFFIXES)}; give a folder or pattern with such files"
        )
    splits = sorted({match["split"] for path in files if (match := _SHARD.match(path.name))})
    if len(splits) > 1:
        raise UserError(
            f"{source!r} has files of the splits {', '.join(splits)}; give one of them as a pattern, such as "
            f"{files[0].parent / splits[-1]}-*{files[0].suffix}"
        )
    return files


def _hub_rows(
    source: str, repository: str, config: str | None, split: str, revision: str | None
) -> Iterator[tuple[int, object]]:
    """Yield the rows of a data set that the library `datasets` downloads and maps into memory."""
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise UserError(
            f"{source!r} is not a local file, and hub data sets need the package datasets, which is not installed; "
            "run `uv pip install datasets`, or the same with pip, or give a file or folder"
        ) from None
    try:
        rows = datasets.load_dataset(repository, config, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source!r} is not a local file, and the download from the hub failed ({excerpt(error)}); give a file, or "
            "org/name[/config][:split][@revision] of a data set that this machine can reach"
        ) from error
    yield from enumerate(rows, start=1)
