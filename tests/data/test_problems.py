"""Rows become problems with exact golds, or one error that names the row."""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from mathsft.data.problems import load_problems
from mathsft.errors import UserError
from mathsft.records import Problem

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"


def problems_of(source: str) -> list[Problem]:
    return load_problems(source).problems


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return str(path)

    return write_rows


def test_math_row(write):
    row = {"problem": "What is $1+1$?\n", "solution": r"It is $\boxed{2}$.", "level": "Level 3", "type": "Prealgebra"}
    (problem,) = problems_of(write(row))
    assert problem.problem == "What is $1+1$?"
    assert problem.id == hashlib.sha256(b"What is $1+1$?").hexdigest()[:12]
    assert (problem.solution, problem.answer) == (r"It is $\boxed{2}$.", "2")
    assert (problem.level, problem.subject) == (3, "Prealgebra")


def test_given_answer_wins_over_the_solution_and_may_be_a_number(write):
    row = {"problem": "p", "solution": r"\boxed{1}", "answer": "7", "level": 5, "subject": "Algebra"}
    first, second = problems_of(write(row, "", {**row, "answer": 8, "level": "Level ?", "subject": None}))
    assert (first.answer, first.level, first.subject) == ("7", 5, "Algebra")
    assert (second.answer, second.level, second.subject) == ("8", None, None)
    assert first.id == second.id


def test_gsm8k_row(write):
    row = {
        "question": "How many?",
        "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
    }
    (problem,) = problems_of(write(row))
    assert problem.answer == "72"
    assert problem.solution == "She sold 48/2 = 24 clips.\nIn all 48+24 = 72."


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not in ../shared/data/gsm8k")
def test_real_gsm8k_loads_whole():
    problems = problems_of(str(GSM8K / "train.jsonl"))
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
        ({"prompt": "p"}, r"\['prompt'\].*it needs problem and solution"),
        ({"problem": "p"}, r"only the keys .*\['problem'\].*add its solution, or its answer"),
        ({"question": "q", "answer": None}, "add its solution, or its answer"),
        ({"problem": "p", "solution": " ", "answer": "2"}, "solution is missing, and answer is '2'"),
        ({"problem": "p", "solution": {"s": 1}}, r"solution is \{'s': 1\}"),
        ({"problem": "p", "solution": []}, r"solution is an empty list"),
        ({"problem": " ", "solution": "s"}, "problem is ' '"),
        ({"problem": ["p"], "solution": "s"}, r"problem is \['p'\]"),
        ({"problem": "p", "solution": "There is no end to it."}, "no gold answer.*no end to it"),
        (
            {"question": "q", "answer": "It is 72."},
            "solution is missing, and answer is 'It is 72.'; write the solution before",
        ),
        ({"question": "q", "answer": "There were 70.\nThen 72."}, "no gold answer.*neither"),
        ({"question": "q", "answer": "#### 72"}, "write the solution before"),
        ({**GOOD, "answer": True}, "answer is True"),
        ({**GOOD, "answer": "1 </answer>"}, "the gold answer holds the tag </answer>"),
        ({**GOOD, "solution": r"a </think> \boxed{1}"}, "the solution holds the tag </think>"),
        ('{"problem": "\\ud800", "solution": "\\\\boxed{1}"}', "half of a surrogate pair"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(write, bad_row, words):
    source = write(GOOD, bad_row)
    with pytest.raises(UserError, match=words) as caught:
        problems_of(source)
    assert str(caught.value).startswith(f"{source}:2: ")
    assert str(caught.value).endswith("data.unreadable: drop leaves such rows out") or "is not JSON" in words
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(source) + 400


NO_ANSWERS = [
    "NaN",
    "proof",
    "Proof.",
    "notfound",
    "not found",
    "None",
    "none",
    "null",
    "N/A",
    "#N/A",
    "<NA>",
    "",
    "  ",
    "…",
    "?",
    "--",
    "$None$",
]


@pytest.mark.parametrize(
    "answer", [*NO_ANSWERS, "#### None", r"\boxed{N/A}", float("nan"), float("inf"), -float("inf"), True]
)
def test_what_stands_for_no_answer_is_none(write, answer):
    with pytest.raises(UserError, match=r"rows\.jsonl:2: .*answer"):
        load_problems(write(GOOD, {**GOOD, "answer": answer}))


@pytest.mark.parametrize("ending", [r"\boxed{None}", "#### notfound", "#### N/A"])
def test_a_solution_that_ends_with_no_answer_has_none(write, ending):
    with pytest.raises(UserError, match=r"rows\.jsonl:2: .*means that there is no answer"):
        load_problems(write(GOOD, {"problem": "p", "solution": f"So {ending}"}))


@pytest.mark.parametrize(
    "answer", [r"\text{none}", "No", "Infinity", r"\infty", "no solution", "Na", "0", "proofs", "<", "-1", "x"]
)
def test_words_and_signs_may_be_answers(write, answer):
    (problem,) = problems_of(write({**GOOD, "answer": answer}))
    assert problem.answer == answer


def test_a_number_may_be_longer_than_a_float_is(write):
    (problem,) = problems_of(write({**GOOD, "answer": 10**400}))
    assert problem.answer == str(10**400)


def test_unreadable_rows_are_counted_and_the_first_are_named(write):
    bad = {**GOOD, "answer": "proof"}
    source = write(GOOD, bad, "", bad, {"prompt": "p"}, GOOD, *[bad] * 4)
    with pytest.raises(UserError) as caught:
        load_problems(source)
    assert str(caught.value) == (
        f"{source}:2: no gold answer can be read ('proof' means that there is no answer); answer is 'proof'; correct the "
        "row: the gold answer is read from answer, or from the last \\boxed{...} or `#### ...` of solution; 7 of 9 rows "
        "cannot be read, also 4, 5, 7, 8, 9, …; data.unreadable: drop leaves such rows out"
    )
    rows = load_problems(source, "drop")
    assert ([place.number for place in rows.rows], rows.num_unreadable) == ([1, 6], 7)
    assert rows.unreadable[0].startswith(f"{source}:2: no gold answer can be read ('proof' means")


def test_where_no_row_is_left_dropping_is_no_way_out(write):
    with pytest.raises(UserError, match=r"2 of 2 rows cannot be read, also 2$"):
        load_problems(write(*[{**GOOD, "answer": "proof"}] * 2), "drop")


@pytest.mark.parametrize(
    ("level", "read"),
    [
        *((level, 4) for level in (4, 4.0, "4", "4.0", " 4 ", "Level 4")),
        *((level, None) for level in (4.5, "", "N/A", "hard", None, True, float("nan"), [4], "Level ?")),
    ],
)
def test_a_level_is_optional(write, level, read):
    (problem,) = problems_of(write({**GOOD, "level": level, "subject": "\ud800"}))
    assert (problem.level, problem.subject) == (read, "?")


def test_question_solution_and_answer_are_what_they_say(write):
    rows = [
        {"question": "q", "solution": "1 + 1 is the reasoning.", "answer": "2"},
        {"question": "q", "solution": "1 + 1 is the reasoning.", "answer": "#### 2"},
        {"problem": "q", "solution": "1 + 1 is the reasoning.", "answer": "So 1 + 1 = 2.\n#### 2"},
        {"problem": "q", "answer": "1 + 1 is <<1+1=2>>the reasoning.\n#### 2"},
        {"question": "q", "solution": "", "answer": "1 + 1 is the reasoning.\n#### 2"},
    ]
    read = {(problem.problem, problem.solution, problem.answer) for problem in problems_of(write(*rows))}
    assert read == {("q", "1 + 1 is the reasoning.", "2")}
    boxed = r"Then $1 + 1 = \boxed{2}$."
    (problem,) = problems_of(write({"question": "q", "answer": boxed}))
    assert (problem.solution, problem.answer) == (boxed, "2")


def test_a_test_row_needs_no_solution(write):
    rows = [
        {"question": "q", "answer": "#### 4"},
        {"question": "q", "answer": "4"},
        {"problem": "q", "answer": 4, "solution": None},
        {"problem": "q", "answer": "4", "solution": ""},
    ]
    problems = load_problems(write(*rows), need_solutions=False).problems
    assert [(problem.solution, problem.answer) for problem in problems] == [("", "4")] * 4
    matrix = "\\begin{pmatrix} 1 & 2 \\\\\n 3 & 4 \\end{pmatrix}"
    (problem,) = load_problems(write({"problem": "q", "answer": matrix}), need_solutions=False).problems
    assert (problem.solution, problem.answer) == ("", matrix)
    with pytest.raises(UserError, match=r"no gold answer.*neither"):
        load_problems(write({"question": "q", "answer": "It takes a long time. " * 12}), need_solutions=False)
    with pytest.raises(UserError, match="add its solution, or its answer"):
        load_problems(write({"question": "q"}), need_solutions=False)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path, content, name):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"rows\.jsonl is {name}; convert it to JSONL"):
        load_problems(str(path))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"problem": "\xe9t\xe9"}\n')
    with pytest.raises(UserError, match=r"latin\.jsonl:2: .*UTF-8"):
        problems_of(str(path))


@pytest.mark.parametrize("source", ["no/such.jsonl", "no/such.parquet", "no/such.jsonl.gz", "nothing", "a/b/c/d"])
def test_missing_file(source):
    with pytest.raises(UserError, match="no such file"):
        problems_of(source)


def test_empty_file(write):
    with pytest.raises(UserError, match="empty"):
        problems_of(write(""))


def test_a_hub_id_without_the_library_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install datasets"):
        problems_of("openai/gsm8k/main:test")
