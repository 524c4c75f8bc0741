"""The task "math": problems with an exact answer, which is compared by value."""

from mathsft.records import Problem
from mathsft.tasks.math import equality
from mathsft.tasks.math.grader import MathGrader
from mathsft.tasks.math.math_rows import read_row
from mathsft.tasks.task import Row


class Math:
    """Reads rows as those of MATH and GSM8K; compares answers by rules, and with math-verify where these are undecided."""

    def read(self, row: Row, *, needs_solution: bool) -> Problem:
        return read_row(row, needs_solution)

    def is_same(self, first: str, second: str) -> bool:
        return equality.equal(first, second) or equality.equal(second, first)

    def may_repeat(self, gold: str) -> bool:
        return equality.is_number(gold)

    def grader(self) -> MathGrader:
        return MathGrader()
