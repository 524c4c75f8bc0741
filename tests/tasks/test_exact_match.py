"""The task "exact_match": its rows, its equality, and its place in the data."""

import json
from pathlib import Path

import pytest

from mathsft.config.schema import DataSettings, PoolSizes
from mathsft.data.pools import load_data
from mathsft.errors import UserError
from mathsft.prompts import boxed
from mathsft.prompts.verdicts import Completion, grade
from mathsft.tasks.exact_match import ExactMatch
from mathsft.tasks.task import UnreadableRowError

LEAST = PoolSizes(search=1, confirm=1, validation=1, test=1)


def test_a_row_is_a_problem_with_an_answer() -> None:
    problem = ExactMatch().read({"question": " Colour? ", "answer": " sky  blue ", "type": "colour"}, needs_solution=True)
    assert (problem.problem, problem.solution, problem.answer, problem.subject) == ("Colour?", "", "sky  blue", "colour")
    for row, complaint in (
        ({"question": "q"}, "no answer"),
        ({"answer": "a"}, "the keys"),
        ({"problem": 1, "answer": "a"}, "1"),
    ):
        with pytest.raises(UnreadableRowError, match=complaint):
            ExactMatch().read(row, needs_solution=False)


def test_answers_are_texts() -> None:
    answers = {"sky blue": "correct", "sky\n blue": "correct", "Sky blue": "wrong_answer", "": "wrong_answer"}
    completions = [Completion(rf"It is \boxed{{{answer}}}", "stop", "sky  blue") for answer in answers]
    graded = grade([*completions, Completion("sky blue", "stop", "sky blue")], boxed.parse_response, ExactMatch().grader())
    assert [one.verdict.category for one in graded] == [*answers.values(), "format_failure"]
    assert ExactMatch().grader().compare([("0.5", "1/2")])[0].is_equal is False


def test_its_gold_answers_may_be_frequent_and_contradict_as_texts(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [{"question": f"Is {n} even?", "answer": "no" if n % 2 else "yes"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataSettings(source=str(path), pools=LEAST)
    assert load_data(data, "exact_match").quality.findings == ()
    path.write_text(path.read_text() + json.dumps({"question": "Is 2 even?", "answer": "Yes"}) + "\n")
    with pytest.raises(UserError, match="'yes' in row 3 and 'Yes' in row 61"):
        load_data(data, "exact_match")
