"""What counts, under either format rule and with one or several responses a problem."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import mathsft
from mathsft.objective import NOT_STRICT, Objective, accuracy_interval, independent_responses, shares
from mathsft.records import Category, Response
from mathsft.statistics.intervals import clustered, wilson
from tests.build import make_response, make_score

LENIENT, STRICT = Objective(), Objective("strict")


def response(category: Category, problem: str = "a", sample: int = 0, *, is_strict: bool = True) -> Response:
    reason = "malformed" if category == "format_failure" else ""
    return make_response(problem, category, reason=reason, sample=sample, is_strict=is_strict)


def test_the_strict_rule_counts_only_what_meets_it() -> None:
    given = [response("correct"), response("correct", is_strict=False), response("format_failure", is_strict=False)]
    assert list(map(LENIENT.category, given)) == ["correct", "correct", "format_failure"]
    assert list(map(STRICT.category, given)) == ["correct", "format_failure", "format_failure"]
    assert list(map(STRICT.reason, given)) == ["", NOT_STRICT, "malformed"]
    assert STRICT.counts(given) == {"correct": 1, "wrong_answer": 0, "format_failure": 2, "ungraded": 0}
    assert list(map(STRICT.is_well_formed, given)) == [True, False, False]


def test_the_objective_is_that_of_the_recorded_settings() -> None:
    recorded = {"evaluation.format_rule": "strict", "evaluation.num_samples": 4, "seed": 0}
    assert Objective.of(recorded) == Objective("strict", 4)
    assert Objective.of(None) == Objective.of({}) == Objective("lenient", 1)


def test_several_responses_make_one_outcome_a_problem() -> None:
    objective = Objective(num_samples=4)
    given = [
        response("correct" if sample < solved else "wrong_answer", name, sample)
        for name, solved in (("a", 1), ("b", 4), ("c", 0))
        for sample in range(4)
    ]
    assert objective.outcomes(given) == (0.25, 1.0, 0.0)
    assert objective.solved(given) == (1, 1, 0, 0, 1)
    assert shares(given, lambda one: one.sample == 0) == (0.25, 0.25, 0.25)
    share = objective.share(given)
    assert (share.num, share.of, share.interval) == (5, 12, clustered([1, 4, 0], 4))


def test_a_scores_interval_is_clustered_by_problem() -> None:
    # 20 problems, 4 responses each, that agree within a problem: no more is known than from one response each.
    alike = make_score(num_correct=40, num_problems=20, num_samples=4, solved=(10, 0, 0, 0, 10))
    found, expected = accuracy_interval(alike), wilson(10, 20)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert independent_responses(alike) == 20
    # Responses that do not resemble each other count each by itself.
    independent = replace(alike, solved=(1, 5, 8, 5, 1))
    assert 60 < independent_responses(independent) <= 80
    assert accuracy_interval(independent).low > accuracy_interval(alike).low


def test_with_one_response_a_problem_it_is_wilsons() -> None:
    for solved in ((), (3, 7)):
        assert accuracy_interval(make_score(num_correct=7, num_problems=10, solved=solved)) == wilson(7, 10)


def test_nobody_else_decides_what_is_correct_or_takes_an_interval_of_counts() -> None:
    """No other file compares a category with "correct", or calls an interval on counts."""
    root = Path(mathsft.__file__).parent
    exempt = {root / "objective.py", root / "commands" / "grade.py"}
    found = []
    for path in sorted(root.rglob("*.py")):
        if path in exempt or path.is_relative_to(root / "tasks") or path.is_relative_to(root / "statistics"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and any(
                isinstance(side, ast.Constant) and side.value in ("correct", "format_failure")
                for side in (node.left, *node.comparators)
            ):
                found.append(f"{path.relative_to(root)}:{node.lineno}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "wilson":
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found == []
