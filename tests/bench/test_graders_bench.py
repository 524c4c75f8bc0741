"""What bench.graders counts: agreement with labels, where there is an answer, with a peer that may never reply."""

import json
import sys

import pytest
from rich.console import Console

from bench import graders
from bench.graders import counts_table, grade_by_peer, make_case, share_right


def answer(id: str, expect_correct: bool) -> dict[str, object]:
    return {"id": id, "cat": "text", "kind": "answer", "answer": "east", "gold": "east", "expect_correct": expect_correct}


def response(text: str, gold: str, gold_kind: str) -> dict[str, object]:
    asked = {"response": text, "finish_reason": "stop", "gold": gold, "gold_kind": gold_kind}
    return {"id": "r", "cat": "format", "kind": "response", **asked, "expect_correct": True}


def test_a_response_comes_down_to_its_answer_and_gold() -> None:
    solution = r"so $\boxed{\frac{1}{2}}$"
    assert make_case(response("a </think> <answer> 0.5 </answer>", solution, "math_solution")).pair == (
        "0.5",
        r"\frac{1}{2}",
    )
    assert make_case(response("a <answer> 0.5 </answer>", solution, "math_solution")).pair is None


def test_wrong_verdicts_are_told_apart_and_what_was_not_asked_does_not_count() -> None:
    cases = [
        make_case(answer(id, expect_correct))
        for id, expect_correct in (("a", True), ("b", True), ("c", False), ("d", False))
    ]
    outcomes = {"peer": {"a": True, "b": False, "c": "hangs"}}
    console = Console(width=100)
    with console.capture() as shown:
        console.print(counts_table(cases, outcomes))
    rows = [line.split() for line in shown.get().splitlines()]
    assert ["all", "4", "1", "of", "3"] in rows
    assert ["wrong", "called", "right", "0"] in rows
    assert ["right", "called", "wrong", "1"] in rows
    assert ["no", "verdict", "1"] in rows
    assert share_right(cases, outcomes["peer"]) == 0.3333


@pytest.mark.slow
def test_math_verify_is_asked_in_a_process() -> None:
    pairs = {"a": ("0.5", r"\frac{1}{2}"), "b": ("0.6", r"\frac{1}{2}")}
    assert grade_by_peer("math-verify", sys.executable, pairs) == {"a": True, "b": False}


@pytest.mark.slow
def test_a_peer_that_does_not_reply_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graders, "MAX_SECONDS", 0)
    assert grade_by_peer("math-verify", sys.executable, {"a": ("1", "1")}) == {"a": "hangs"}


def test_a_peer_that_cannot_be_had_says_so() -> None:
    with pytest.raises(ImportError, match="dies"):
        grade_by_peer("no-such-peer", sys.executable, {"a": ("1", "1")})


def test_labels_have_ids_of_their_own_and_reasons() -> None:
    lines = [json.loads(line) for file in graders.CASES.glob("*.jsonl") for line in graders._lines(file)]
    assert len({line["id"] for line in lines}) == len(lines)
    assert all(line["note"] for line in lines)
