"""The task "math": problems with an exact answer, which is compared by value."""

from mathsft.boxes import BOX
from mathsft.records import Problem
from mathsft.tasks.math import equality
from mathsft.tasks.math.gold import extract_gold
from mathsft.tasks.math.grader import MathGrader
from mathsft.tasks.math.math_rows import read_row
from mathsft.tasks.task import Row


class Math:
    """Reads rows as those of MATH and GSM8K; compares answers by rules, and with math-verify where these are undecided."""

    def read(self, row: Row, *, needs_solution: bool) -> Problem:
        return read_row(row, needs_solution)

    def is_same(self, first: str, second: str) -> bool:
        return equality.equal(first, second) or equality.equal(second, first)

    def other_answer(self, solution: str, gold: str) -> str | None:
        if len(BOX.findall(solution)) > 1:  # several boxes may be parts of one answer
            return None
        try:
            own = extract_gold(None, solution)
        except ValueError:
            return None
        return own if equality.decide(own, gold) is False and equality.decide(gold, own) is False else None

    def may_repeat(self, gold: str) -> bool:
        return equality.is_number(gold)

    def grader(self) -> MathGrader:
        return MathGrader()
