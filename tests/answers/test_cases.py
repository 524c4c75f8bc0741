"""Every labelled case: what is right, what is wrong, and what the format says, each with its reason in its note.

A case whose verdict hangs on which of the two is the gold answer has one_way: 6:15 may be a time, unless the gold is 2:5.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mathsft.answers.equal import decide
from mathsft.answers.grade import Completion, Grader
from mathsft.answers.response_format import extract_gold, parse
from mathsft.answers.sandbox import Pair

FILES = ("public_cases.jsonl", "own_cases.jsonl", "cases_by_kind.jsonl")
"""The last were labelled by someone who had not seen the rules."""


def labelled_cases(kind: str) -> list[Any]:
    files = [Path(__file__).with_name(name) for name in FILES]
    cases = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [pytest.param(case, id=case["id"]) for case in cases if case["kind"] == kind]


def gold_of(case: dict[str, Any]) -> str:
    from_solution = case.get("gold_kind", "answer") != "answer"
    return extract_gold(None if from_solution else case["gold"], case["gold"] if from_solution else "")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize("case", labelled_cases("answer"))
def test_answer(case: dict[str, Any], grader: Grader) -> None:
    """By rule, else by algebra; what the rules say does not hang on the order, unless the case says so."""
    [ruling] = grader.compare([Pair(case["answer"], case["gold"])])
    assert ruling.is_equal is case["expect_correct"], case["note"]
    is_symmetric = decide(case["gold"], case["answer"]) is decide(case["answer"], case["gold"])
    assert is_symmetric is not case.get("one_way", False)


def test_field_cases(grader: Grader) -> None:
    """Pairs that users of other graders reported, with labels."""
    file = Path(__file__).parents[3] / "shared" / "grading" / "field_cases.jsonl"
    if not file.is_file():
        pytest.skip("no field cases beside the repository")
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rulings = grader.compare([Pair(case["answer"], case["gold"]) for case in cases])
    assert len(cases) == 243
    assert [c["id"] for c, ruling in zip(cases, rulings, strict=True) if ruling.is_equal is not c["expect_correct"]] == []


@pytest.mark.parametrize("case", labelled_cases("response"))
def test_response(case: dict[str, Any], grader: Grader) -> None:
    [graded] = grader.grade([Completion(case["response"], case["finish_reason"], gold_of(case))])
    verdict = graded.verdict
    kind = verdict.reason if verdict.category == "format_failure" else verdict.category
    assert kind == case["expect_category"], case["note"]
    assert parse(case["response"], case["finish_reason"]).format_ok == case["expect_format"]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\int_0^1 2x\,dx", "1"),
        (r"2\sin x\cos x", r"\sin 2x"),
        ("|x|", "x"),
        (r"\sqrt{x+\sqrt{y}}", r"\sum_{k=1}^3 k"),
    ],
)
def test_what_needs_more_algebra_is_left_undecided(answer: str, gold: str) -> None:
    assert decide(answer, gold) is None
