"""Gold answers of one problem are compared by value, and golds that may stand for none are pointed out."""

import pytest

from mathsft.data.problems import DataSetRows
from mathsft.data.quality import distinct_problems, quality_of
from mathsft.errors import UserError
from mathsft.records import FrequentGold, Problem
from mathsft.tasks.math.math_task import Math
from mathsft.tasks.rows import problem_id


def rows_of(*given: tuple[str, str]) -> DataSetRows:
    """Return rows of these problems and gold answers."""
    problems = [Problem(problem_id(text), text, f"way {i}", gold) for i, (text, gold) in enumerate(given)]
    return DataSetRows("rows.jsonl", dict(enumerate(problems, start=1)))


@pytest.mark.parametrize("golds", [("0.5", r"\frac{1}{2}", "1/2"), ("1,000", "1000"), ("x=4", "4"), ("12", "12 apples")])
def test_golds_of_one_value_do_not_contradict(golds: tuple[str, ...]) -> None:
    (solutions,) = distinct_problems(rows_of(*(("p", gold) for gold in golds)), "error", Math()).problems.values()
    assert {problem.answer for problem in solutions} == set(golds)


@pytest.mark.parametrize("golds", [("4", "5"), ("3.333", "3.33333"), ("Yes", "No"), ("4", "4", "(4, 5)")])
def test_golds_of_different_value_do(golds: tuple[str, ...]) -> None:
    given = rows_of(("other", "1"), *(("the problem", gold) for gold in golds), ("The PROBLEM", golds[0]))
    with pytest.raises(UserError, match=rf"in 1 of 2 problems \(\d rows\): 'the problem' has '{golds[0]}' in row 2 and "):
        distinct_problems(given, "error", Math())
    found = distinct_problems(given, "drop", Math())
    assert (found.num_contradictory, found.num_contradictory_rows) == (1, len(golds) + 1)
    assert [problem.problem for solutions in found.problems.values() for problem in solutions] == ["other"]


def test_problems_that_differ_in_the_case_of_a_symbol_may_have_different_golds() -> None:
    found = distinct_problems(rows_of(("What is the code of A?", "65"), ("What is the code of a?", "97")), "error", Math())
    (solutions,) = found.problems.values()
    assert sorted(problem.answer for problem in solutions) == ["65", "97"]


def frequent(*golds: str) -> tuple[FrequentGold, ...]:
    given = rows_of(*((f"p {i}", gold) for i, gold in enumerate(golds)))
    return quality_of([given], [distinct_problems(given, "error", Math())], 0, given.problems, Math()).frequent_golds


def test_a_frequent_gold_that_is_no_number_is_pointed_out() -> None:
    numbers = [*map(str, range(100)), *["7"] * 50, *[r"\frac{\pi}{2}"] * 20]
    assert frequent(*numbers, *["see above"] * 6, *["Yes"] * 8) == (
        FrequentGold("Yes", 8, 184, "rows.jsonl:177"),
        FrequentGold("see above", 6, 184, "rows.jsonl:171"),
    )
    assert frequent(*numbers, *["Yes"] * 3) == (), "3 of 173 are no 2 %"
    assert frequent("1", "2", "x", "x") == (), "2 rows are an accident"
