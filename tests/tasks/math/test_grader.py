"""From completions to verdicts: format, rules and algebra together, each pair once."""

from collections.abc import Sequence

import pytest

from mathsft.prompts.tags import parse_response
from mathsft.prompts.verdicts import Completion, grade
from mathsft.tasks.math.equality import decide
from mathsft.tasks.math.grader import MathGrader
from mathsft.tasks.math.sandbox import Sandbox
from mathsft.tasks.task import Pair, Ruling

ALGEBRA = Pair(r"2\sin x\cos x", r"\sin 2x")
"""Left undecided by the rules."""


class Recorder:
    """Stands in for `Sandbox.judge`, so that no process is needed: notes its pairs and gives the same ruling to all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ruling: Ruling) -> None:
        self.seen: list[Pair] = []
        self._ruling = ruling
        monkeypatch.setattr(Sandbox, "judge", lambda _, pairs: self.judge(pairs))

    def judge(self, pairs: Sequence[Pair]) -> list[Ruling]:
        self.seen += pairs
        return [self._ruling for _ in pairs]


def answered(body: str, joint: str = " ") -> str:
    return f"so </think>{joint}<answer> {body} </answer>"


def test_a_completion_is_judged_by_format_then_rules_then_algebra() -> None:
    completions = [
        Completion(answered("0.5"), "stop", r"\frac12"),
        Completion(answered("0.6"), "stop", r"\frac12"),
        Completion("so 0.5", "length", r"\frac12"),
        Completion(answered(ALGEBRA.answer, joint="\n"), "stop", ALGEBRA.gold),
        Completion(answered(r"\cos 2x"), "stop", ALGEBRA.gold),
    ]
    with MathGrader() as grader:
        graded = grade(completions, parse_response, grader)
    kinds = [(one.verdict.category, one.verdict.reason, one.verdict.body, one.is_strict) for one in graded]
    assert kinds == [
        ("correct", "", "0.5", True),
        ("wrong_answer", "", "0.6", True),
        ("format_failure", "incomplete_generation", None, False),
        ("correct", "", ALGEBRA.answer, False),
        ("wrong_answer", "", r"\cos 2x", True),
    ]
    assert graded[2].tag_flags == ("missing_think_close", "missing_answer_open", "missing_answer_close")
    assert [one.is_strict for one in graded[:1] + graded[3:4]] == [True, False]


def test_a_pair_is_judged_once_however_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, Ruling(True, seconds=1.5))
    decided: list[tuple[str, str]] = []
    monkeypatch.setattr("mathsft.tasks.math.grader.decide", lambda *pair: (decided.append(pair), decide(*pair))[1])
    grader = MathGrader()
    rulings = grader.compare([ALGEBRA, Pair("1", "1"), ALGEBRA, Pair("1", "1")])
    assert [ruling.is_equal for ruling in rulings] == [True] * 4
    assert [ruling.seconds == 1.5 for ruling in rulings] == [True, False, True, False]
    assert len(recorder.seen) == 1
    assert len(decided) == 2
    grader.compare([ALGEBRA])
    assert len(recorder.seen) == 1, "nor in another call"


def test_a_pair_that_was_stopped_is_ungraded_and_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, Ruling(None, "took longer than 5 s", 5.0))
    grader = MathGrader()
    [graded] = grade([Completion(answered(ALGEBRA.answer), "stop", ALGEBRA.gold)], parse_response, grader)
    assert (graded.verdict.category, graded.verdict.reason) == ("ungraded", "took longer than 5 s")
    assert graded.seconds == 5.0
    grader.compare([ALGEBRA])
    assert len(recorder.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        r"\cos x} \boxed{\sin 2x",
        r"\boxed{\cos x}\boxed{\sin 2x}",
        r"\cos x}} {{\sin 2x",
        r"{\cos x",
        "日",
        "17_7",
        r"(\sin 2x)_8",
        r"\sin' 2x",
    ],
)
def test_what_algebra_could_not_read_as_one_answer_does_not_come_to_it(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, Ruling(True))
    [ruling] = MathGrader().compare([Pair(answer, ALGEBRA.gold)])
    assert ruling.is_equal is False
    assert not recorder.seen


def test_algebra_is_given_latex(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, Ruling(True))
    monkeypatch.setattr("mathsft.tasks.math.grader.decide", lambda answer, gold: None)
    MathGrader().compare([Pair(r"\left\{ \dfrac12, 30° \right\}", "⟨√2, x²⟩")])
    [pair] = recorder.seen
    assert pair.answer.split() == [r"\{", r"\frac{1}{2},", r"30^\circ", r"\}"]
    assert pair.gold.split()[0] == r"\langle"
    assert pair.gold.isascii()
