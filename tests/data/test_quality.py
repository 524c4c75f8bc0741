"""Gold answers of one problem are compared by value, and golds that may stand for none are pointed out."""

import pytest

from mathsft.data.problems import DataSetRows
from mathsft.data.quality import distinct_problems, found, read_findings
from mathsft.data.raw_rows import Place
from mathsft.errors import UserError
from mathsft.records import Finding, Problem
from mathsft.tasks.math.math_task import Math
from mathsft.tasks.rows import problem_id

FILE = "rows.jsonl"


def rows_of(*given: tuple[str, str]) -> DataSetRows:
    """Return rows of these problems and gold answers."""
    problems = [Problem(problem_id(text), text, f"way {i}", gold) for i, (text, gold) in enumerate(given)]
    return DataSetRows(FILE, {Place(FILE, number): problem for number, problem in enumerate(problems, start=1)})


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
    (finding,) = (finding for finding in found.findings if finding.kind == "contradictory")
    assert (finding.count, finding.num_rows) == (1, len(golds) + 1)
    assert [problem.problem for solutions in found.problems.values() for problem in solutions] == ["other"]


def test_problems_that_differ_in_the_case_of_a_symbol_may_have_different_golds() -> None:
    found = distinct_problems(rows_of(("What is the code of A?", "65"), ("What is the code of a?", "97")), "error", Math())
    (solutions,) = found.problems.values()
    assert sorted(problem.answer for problem in solutions) == ["65", "97"]


def frequent(*golds: str) -> tuple[str, ...]:
    findings = read_findings(rows_of(*((f"p {i}", gold) for i, gold in enumerate(golds))), Math())
    return tuple(example for finding in findings for example in finding.examples)


def test_a_frequent_gold_that_is_no_number_is_pointed_out() -> None:
    numbers = [*map(str, range(100)), *["7"] * 50, *[r"\frac{\pi}{2}"] * 20]
    assert frequent(*numbers, *["see above"] * 6, *["Yes"] * 8) == (
        "'Yes' in 8 of 184 rows, the first in rows.jsonl:177",
        "'see above' in 6 of 184 rows, the first in rows.jsonl:171",
    )
    assert frequent(*numbers, *["Yes"] * 3) == (), "3 of 173 are no 2 %"
    assert frequent("1", "2", "x", "x") == (), "2 rows are an accident"


def test_findings_of_one_kind_are_added_up_and_show_three_examples() -> None:
    one, two = Finding("variant", 2, 2, ("a", "b")), Finding("variant", 5, 6, ("c", "d"))
    none = Finding("repeated", 0, 0, ())
    assert found(none, one, two) == (Finding("variant", 7, 8, ("a", "b", "c")),)
