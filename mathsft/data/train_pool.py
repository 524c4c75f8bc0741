"""Chooses the problems of the train pool: without near copies of other pools' problems, and without wrong solutions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mathsft.data.near_copies import NearCopies
from mathsft.data.problems import NUM_EXAMPLES
from mathsft.data.quality import Solutions, found, repeated_rows
from mathsft.errors import excerpt
from mathsft.records import Finding, FindingKind, Problem
from mathsft.tasks.task import Task


@dataclass(frozen=True)
class TrainPool:
    """The rows of the train pool, the number of their problems, and what was left out."""

    rows: tuple[Problem, ...]
    num_problems: int
    findings: tuple[Finding, ...]


def select_train(
    candidates: Iterable[Solutions], size: int | None, others: Mapping[str, Sequence[Problem]], task: Task
) -> TrainPool:
    """Return the first `size` problems (None: all) that are no near copy of a problem in `others`, the other pools.

    Solutions that end with another answer than the gold answer are left out, and problems without another solution.
    """
    index = NearCopies(problem.problem for pool in others.values() for problem in pool)
    pool_names = {problem.problem: name for name, pool in others.items() for problem in pool}
    copies, wrong = _Left("near_copy"), _Left("wrong")
    rows: list[Problem] = []
    num_problems = 0
    for solutions in candidates:
        if num_problems == size:
            break
        if copy := index.of(solutions[0].problem):
            where = f"{copy.share:.0%} of the 13-grams of {excerpt(copy.text)} in the pool {pool_names[copy.text]}"
            copies.add(len(solutions), f"{excerpt(solutions[0].problem)} has {where}")
            continue
        right = []
        for row in solutions:
            if (other := task.other_answer(row.solution, row.answer)) is None:
                right.append(row)
            else:
                answers = f"the solution ends with {excerpt(other)}, the gold answer is {excerpt(row.answer)}"
                wrong.add(1, f"{excerpt(row.problem)}: {answers}")
        rows += right
        num_problems += bool(right)
    return TrainPool(tuple(rows), num_problems, found(copies.finding, wrong.finding, repeated_rows(rows)))


class _Left:
    """Counts what is left out for one reason."""

    def __init__(self, kind: FindingKind) -> None:
        self._kind, self._count, self._num_rows, self._examples = kind, 0, 0, list[str]()

    def add(self, num_rows: int, example: str) -> None:
        self._count += 1
        self._num_rows += num_rows
        if len(self._examples) < NUM_EXAMPLES:
            self._examples.append(example)

    @property
    def finding(self) -> Finding:
        return Finding(self._kind, self._count, self._num_rows, tuple(self._examples))
