"""Rows are the same in every format, are read in memory of a fixed size, and a file that cannot be read is named."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mathsft.data import raw_rows
from mathsft.data.raw_rows import read_rows
from mathsft.errors import UserError

ROWS = [{"problem": f"What is {i} + ½?", "solution": f"It is {i}.5.\n", "answer": i + 0.5, "level": i} for i in range(600)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, ensure_ascii=False, indent=1).encode()


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Write the rows in the format of the file's name."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=250)
        return path
    content = (
        json.dumps(rows).encode() if ".json." in f"{path.name}." else b"".join(json.dumps(r).encode() + b"\n" for r in rows)
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.parquet", "misnamed.txt"])
def test_every_format_gives_the_same_numbered_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert list(read_rows(str(path))) == [((str(path), number, 0), row) for number, row in enumerate(ROWS, start=1)]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + ARRAY, b"\n \n" + ARRAY, b"\xef\xbb\xbf" + LINES])
def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert [row for _, row in read_rows(str(tmp_path / "a"))] == ROWS


def test_the_shards_of_a_folder_or_pattern_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for start, name in ((400, "train-00002-of-00003.jsonl.gz"), (0, "train-00000-of-00003.parquet")):
        write(tmp_path / name, ROWS[start : start + 200])
    write(tmp_path / "train-00001-of-00003.json", ROWS[200:400])
    (tmp_path / "README.md").write_text("no rows")
    places, rows = zip(*read_rows(str(tmp_path)), strict=True)
    assert list(rows) == ROWS
    assert str(places[200]) == f"{tmp_path / 'train-00001-of-00003.json'}:1"
    write(tmp_path / "test-00000-of-00001.parquet", ROWS[:5])
    with pytest.raises(UserError, match=r"has files of the splits test, train; give one .* such as .*/train-\*\.parquet"):
        list(read_rows(str(tmp_path)))
    assert [row for _, row in read_rows(f"{tmp_path}/test-*")] == ROWS[:5]
    with pytest.raises(UserError, match=r"has no file that ends in \.json, \.jsonl"):
        list(read_rows(f"{tmp_path}/validation-*"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.jsonl.gz", gzip.compress(LINES)[:-50], "gzip data cannot be read"),
        ("cut.json", ARRAY[:-50], r"the JSON array cannot be read after its row 599 \("),
        ("nan.json", b'[{"answer": 1}, {"answer": NaN}]', r"after its row 1 \(.*JSON has no NaN"),
        ("cut.parquet", b"PAR1" + bytes(90), "Parquet file cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        list(read_rows(str(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_data_set_is_asked_for_with_config_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(repository: str, config: str | None, *, split: str, revision: str | None) -> list[dict[str, Any]]:
        asked.append((repository, config, split, revision))
        return ROWS[:2]

    monkeypatch.setattr(raw_rows.importlib, "import_module", lambda name: SimpleNamespace(load_dataset=load_dataset))
    sources = ["org/name", "org/name/main:test@e53f048856ff4f594e959d75785d2c2d37b678ee", "org/name@refs/pr/2"]
    for source in sources:
        assert [(str(place), row) for place, row in read_rows(source)] == [(f"{source}:{i + 1}", ROWS[i]) for i in (0, 1)]
    revision = "e53f048856ff4f594e959d75785d2c2d37b678ee"
    assert asked == [
        ("org/name", None, "train", None),
        ("org/name", "main", "test", revision),
        ("org/name", None, "train", "refs/pr/2"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    def rows(num_rows: int) -> list[dict[str, Any]]:
        return [{"problem": f"What is {i}?", "solution": f"{i} " * 200, "answer": str(i)} for i in range(num_rows)]

    def peak_bytes(rows: Iterator[Any]) -> int:
        tracemalloc.start()
        for _ in rows:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    paths = [write(tmp_path / f"{num_rows}{name}", rows(num_rows)) for num_rows in (1_000, 10_000)]
    small, large = (peak_bytes(read_rows(str(path))) for path in paths)
    assert large < small + 2**18, (small, large)  # a tenth of the rows has 1 MB of text, all have 11 MB
