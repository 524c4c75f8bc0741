"""Rows become problems with exact golds, or one error that names the row."""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from mathsft.data.problems import load_problems
from mathsft.errors import UserError

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return str(path)

    return write_rows


def test_math_row(write):
    row = {"problem": "What is $1+1$?\n", "solution": r"It is $\boxed{2}$.", "level": "Level 3", "type": "Prealgebra"}
    (problem,) = load_problems(write(row))
    assert problem.problem == "What is $1+1$?"
    assert problem.id == hashlib.sha256(b"What is $1+1$?").hexdigest()[:12]
    assert (problem.solution, problem.answer) == (r"It is $\boxed{2}$.", "2")
    assert (problem.level, problem.subject) == (3, "Prealgebra")


def test_given_answer_wins_over_the_solution_and_may_be_a_number(write):
    row = {"problem": "p", "solution": r"\boxed{1}", "answer": "7", "level": 5, "subject": "Algebra"}
    first, second = load_problems(write(row, "", {**row, "answer": 8, "level": "Level ?", "subject": None}))
    assert (first.answer, first.level, first.subject) == ("7", 5, "Algebra")
    assert (second.answer, second.level, second.subject) == ("8", None, None)
    assert first.id == second.id


def test_gsm8k_row(write):
    row = {
        "question": "How many?",
        "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
    }
    (problem,) = load_problems(write(row))
    assert problem.answer == "72"
    assert problem.solution == "She sold 48/2 = 24 clips.\nIn all 48+24 = 72."


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not in ../shared/data/gsm8k")
def test_real_gsm8k_loads_whole():
    problems = load_problems(str(GSM8K / "train.jsonl"))
    assert len(problems) == 7473
    # Golds are whole numbers, some with thousands separators, and no trace of annotations or of the gold line remains.
    assert all(problem.answer.replace(",", "").lstrip("-").isdigit() for problem in problems)
    marks = Counter(mark for problem in problems for mark in ("<<", ">>", "####") if mark in problem.solution)
    assert marks == Counter()
    assert problems[0].answer == "72"


GOOD = {"problem": "p", "solution": r"\boxed{1}"}


@pytest.mark.parametrize(
    ("bad_row", "words"),
    [
        ('{"problem": ', "is not JSON"),
        ('{"problem": "p", "level": ' + "9" * 5000 + "}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "not a JSON object|write a JSON object"),
        ("null", "write a JSON object"),
        ({"prompt": "p"}, r"\['prompt'\]; it needs problem and solution"),
        ({"problem": "p"}, "solution is missing"),
        ({"question": "q"}, "answer is missing"),
        ({"problem": " ", "solution": "s"}, "problem is ' '"),
        ({"problem": ["p"], "solution": "s"}, r"problem is \['p'\]"),
        ({"problem": "p", "solution": "There is no end to it."}, "no gold answer.*no end to it"),
        ({"question": "q", "answer": "It is 72."}, "no gold answer.*It is 72"),
        ({"question": "q", "answer": "#### 72"}, "write the solution before"),
        ({**GOOD, "answer": True}, "answer is True"),
        ({**GOOD, "answer": "1 </answer>"}, "no gold answer.*answer is '1 </answer>'"),
        ({**GOOD, "solution": r"a </think> \boxed{1}"}, "no gold answer.*</think>"),
        ({**GOOD, "level": "hard"}, "level is 'hard'"),
        ('{"problem": "\\ud800", "solution": "\\\\boxed{1}"}', "half of a surrogate pair"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(write, bad_row, words):
    source = write(GOOD, bad_row)
    with pytest.raises(UserError, match=words) as caught:
        load_problems(source)
    assert str(caught.value).startswith(f"{source}:2: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(source) + 400


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"problem": "\xe9t\xe9"}\n')
    with pytest.raises(UserError, match=r"latin\.jsonl:2: .*UTF-8"):
        load_problems(str(path))


@pytest.mark.parametrize("source", ["no/such.jsonl", "nothing", "a/b/c/d"])
def test_missing_file(source):
    with pytest.raises(UserError, match="no such file"):
        load_problems(source)


def test_empty_file(write):
    with pytest.raises(UserError, match="empty"):
        load_problems(write(""))


def test_a_hub_id_without_the_library_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install datasets"):
        load_problems("openai/gsm8k/main:test")
