"""The responses file is whole or absent, and a full disk is the user's to mend."""

import json
from pathlib import Path

import pytest

from mathsft.errors import UserError
from mathsft.evaluation.evaluator import _publish
from tests.build import make_responses

RESPONSES = make_responses(["correct"] * 3, text="é" * 10_000)


def test_the_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "trial-0" / "responses" / "step-000001-search.jsonl"
    _publish(path, RESPONSES)
    assert [json.loads(line)["problem_id"] for line in path.read_text().splitlines()] == ["p0000", "p0001", "p0002"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_full_disk_is_one_clear_line_and_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "step-000001-search.jsonl"
    _publish(path, RESPONSES[:1])
    before = path.read_bytes()
    (tmp_path / "step-000001-search.jsonl.partial").symlink_to("/dev/full")  # the kernel's own refusal
    with pytest.raises(UserError, match=rf"{path}: the disk is full; free [0-9,]+ bytes for these responses"):
        _publish(path, RESPONSES)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
