"""Every labelled case: what is right, what is wrong, and what the format says, each with its reason in its note.

A case whose verdict hangs on which of the two is the gold answer has one_way: 6:15 may be a time, unless the gold is 2:5.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mathsft.prompts.tags import parse_response
from mathsft.prompts.verdicts import Completion, grade
from mathsft.tasks.math.equality.comparison import decide
from mathsft.tasks.math.gold import extract_gold
from mathsft.tasks.math.grader import MathGrader
from mathsft.tasks.task import Pair

Case: TypeAlias = dict[str, Any]

FILES = ("public_cases.jsonl", "own_cases.jsonl", "cases_by_kind.jsonl")
"""The last were labelled by someone who had not seen the rules."""


def labelled_cases(kind: str) -> list[Any]:
    """Return the cases of each category: a thousand tests of a millisecond would cost pytest more than they take."""
    files = [Path(__file__).with_name(name) for name in FILES]
    by_category: dict[str, list[Case]] = defaultdict(list)
    for line in [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]:
        case = json.loads(line)
        if case["kind"] == kind:
            by_category[case["cat"]].append(case)
    return [pytest.param(cases, id=category) for category, cases in by_category.items()]


def gold_of(case: Case) -> str:
    from_solution = case.get("gold_kind", "answer") != "answer"
    return extract_gold(None if from_solution else case["gold"], case["gold"] if from_solution else "")


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader() as grader:
        yield grader


@pytest.mark.parametrize("cases", labelled_cases("answer"))
def test_answers(cases: list[Case], grader: MathGrader) -> None:
    """By rule, else by algebra; what the rules say does not hang on the order, unless the case says so."""
    rulings = grader.compare([Pair(case["answer"], case["gold"]) for case in cases])
    ruled = zip(cases, rulings, strict=True)
    assert [(case, ruling) for case, ruling in ruled if ruling.is_equal is not case["expect_correct"]] == []
    assert [case for case in cases if is_symmetric(case) is case.get("one_way", False)] == []


def is_symmetric(case: Case) -> bool:
    return decide(case["gold"], case["answer"]) is decide(case["answer"], case["gold"])


def test_field_cases(grader: MathGrader) -> None:
    """Pairs that users of other graders reported, with labels."""
    file = Path(__file__).parents[4] / "shared" / "grading" / "field_cases.jsonl"
    if not file.is_file():
        pytest.skip("no field cases beside the repository")
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rulings = grader.compare([Pair(case["answer"], case["gold"]) for case in cases])
    assert len(cases) == 243
    assert [c["id"] for c, ruling in zip(cases, rulings, strict=True) if ruling.is_equal is not c["expect_correct"]] == []


@pytest.mark.parametrize("cases", labelled_cases("response"))
def test_responses(cases: list[Case], grader: MathGrader) -> None:
    completions = [Completion(case["response"], case["finish_reason"], gold_of(case)) for case in cases]
    graded = grade(completions, parse_response, grader)
    verdicts = [one.verdict for one in graded]
    kinds = [one.reason if one.category == "format_failure" else one.category for one in verdicts]
    assert [(case, kind) for case, kind in zip(cases, kinds, strict=True) if kind != case["expect_category"]] == []
    formed = [parse_response(case["response"], case["finish_reason"]).body is not None for case in cases]
    assert [(case, ok) for case, ok in zip(cases, formed, strict=True) if ok != case["expect_format"]] == []


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
