"""The task "exact_match": the answer is a text, which must be the same but for white space.

A row has problem (or question) and answer; solution, which a target gives before the answer, and type (or subject) are
optional.
"""

from collections.abc import Sequence

from mathsft.records import Problem
from mathsft.tasks.rows import is_blank, problem_id, problem_key, subject_of, text_of
from mathsft.tasks.task import Grader, Pair, Row, Ruling, UnreadableRowError


class ExactMatch:
    """Compares answers as text."""

    def read(self, row: Row, *, needs_solution: bool) -> Problem:
        if "answer" not in row:
            raise UnreadableRowError("the row has no answer; add it")
        text = text_of(row, problem_key(row))
        solution = "" if is_blank(row.get("solution")) else text_of(row, "solution")
        return Problem(problem_id(text), text, solution, text_of(row, "answer"), subject=subject_of(row))

    def is_same(self, first: str, second: str) -> bool:
        return first.split() == second.split()

    def other_answer(self, solution: str, gold: str) -> None:
        return None

    def may_repeat(self, gold: str) -> bool:
        return True

    def grader(self) -> Grader:
        return _TextGrader()


class _TextGrader:
    def compare(self, pairs: Sequence[Pair]) -> list[Ruling]:
        return [Ruling(ExactMatch().is_same(*pair)) for pair in pairs]

    def close(self) -> None:
        pass
