"""`python -m mathsft grade`: every public case is graded right, and what a user meets when a line is bad."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mathsft import cli

CASES = Path(__file__).parents[1] / "tasks" / "math" / "public_cases.jsonl"
KEYS = ["id", "category", "correct", "format_ok", "reason", "seconds"]


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def file_of(folder: Path, *lines: object) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_every_public_case_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grade", str(CASES), "--out", str(tmp_path / "out.jsonl")]) == 0
    cases, outcomes = rows(CASES.read_text()), rows((tmp_path / "out.jsonl").read_text())
    for case, outcome in zip(cases, outcomes, strict=True):
        assert list(outcome) == KEYS
        assert outcome["id"] == case["id"]
        assert outcome["correct"] is case["expect_correct"], case
        assert outcome["format_ok"] is case["expect_format"], case
        assert case.get("expect_category", outcome["category"]) in (outcome["category"], outcome["reason"]), case
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"correct +28 +46\.7%", printed.err)


def test_lines_come_out_as_they_went_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = file_of(
        tmp_path,
        {"id": "a", "gold": "15", "response": "</think>\n<answer>15</answer>", "note": "an unknown key"},
        {"id": "[/b]", "gold": "15", "answer": "16"},
        "\n",
        {"id": "c", "gold": r"so \boxed{15}", "gold_kind": "math_solution", "response": "15", "finish_reason": "length"},
        {"id": "d", "gold": "so\n#### 1,500", "gold_kind": "gsm8k_solution", "answer": "1500"},
    )
    assert cli.main(["grade", str(lines)]) == 0
    printed = capsys.readouterr()
    outcomes = rows(printed.out)
    assert all(0 <= outcome.pop("seconds") < 1 for outcome in outcomes)
    assert [list(outcome.values()) for outcome in outcomes] == [
        ["a", "correct", True, True, ""],
        ["[/b]", "wrong_answer", False, None, ""],
        ["c", "format_failure", False, False, "incomplete_generation"],
        ["d", "correct", True, None, ""],
    ]
    # By the strict format rule a new line between the tags is one failure more.
    assert re.search(r"format_failure +1 +25\.0% +2\b", printed.err)
    assert re.search(r"incomplete_generation +1\b", printed.err)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([1, 2], r"the line is \[1, 2\]; write a JSON object"),
        ({"gold": "1", "answer": "1"}, "id is None"),
        ({"id": 1, "answer": "1"}, "gold is missing"),
        ({"id": 1, "gold": 1, "answer": "1"}, "gold is 1; write a string"),
        ({"id": 1, "gold": "1"}, r"has the keys \['gold', 'id'\]; write either answer or response"),
        ({"id": 1, "gold": "1", "answer": "1", "response": "1"}, "write either answer or response"),
        ({"id": 1, "gold": "1", "response": "1", "finish_reason": None}, "finish_reason is None"),
        ({"id": 1, "gold": "1", "gold_kind": "box", "answer": "1"}, "gold_kind is 'box'; write one of answer,"),
        ({"id": 1, "gold": "no box", "gold_kind": "math_solution", "answer": "1"}, "gold is 'no box': .*neither"),
        ({"id": 1, "gold": " ", "answer": "1"}, "gold is ' ': the gold answer is empty"),
    ],
)
def test_a_bad_line_is_named_and_costs_no_other(
    line: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"id": "good", "gold": "1", "answer": "1"}
    path = file_of(tmp_path, good, line if not isinstance(line, str) else line + "\n", good)
    assert cli.main(["grade", str(path)]) == 2
    printed = capsys.readouterr()
    assert [outcome["id"] for outcome in rows(printed.out)] == ["good", "good"]
    assert re.search(rf"lines\.jsonl:2: .*{message}", printed.err), printed.err
    assert "Bad lines: 1;" in printed.err


def test_many_bad_lines_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grade", str(file_of(tmp_path, "?\n" * 15))]) == 2
    error = capsys.readouterr().err
    assert error.count("is not JSON") == 10
    assert "… and 5 more\nBad lines: 15;" in error


def test_files_that_cannot_be_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grade", str(tmp_path / "missing.jsonl")]) == 2
    assert re.search(r"missing\.jsonl: cannot be read \(No such file", capsys.readouterr().err)
    assert cli.main(["grade", str(CASES), "--out", str(tmp_path / "nowhere" / "out.jsonl")]) == 2
    assert "no file can be written there" in capsys.readouterr().err


def test_it_reads_standard_input_and_imports_neither_model_nor_sympy(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mathsft", "grade", "-"]
    line = '{"id": 1, "gold": "1", "answer": "1.0"}'
    done = subprocess.run(command, input=line, capture_output=True, text=True, check=True)
    assert rows(done.stdout)[0]["correct"] is True
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"torch", "vllm", "transformers", "optuna", "sqlalchemy", "wandb", "sympy", "math_verify"}
