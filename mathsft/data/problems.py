"""Reads the problems of a data set, whose rows the task understands; unreadable rows raise an error or are counted."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mathsft.config.schema import TaskName
from mathsft.data.raw_rows import read_rows
from mathsft.errors import UserError, excerpt
from mathsft.prompts.tags import check_tags
from mathsft.records import Problem
from mathsft.tasks.by_name import task_named
from mathsft.tasks.task import Task, UnreadableRowError

_MAX_SHOWN = 5


Rows: TypeAlias = dict[int, Problem]
"""Problems by the number of their row in the data set, from 1."""


@dataclass(frozen=True)
class DataSetRows:
    """The readable rows of a data set, and the number of unreadable ones."""

    source: str
    rows: Rows
    num_unreadable: int = 0
    first_unreadable: str = ""
    """Where the first unreadable row is, and why it cannot be read."""

    @property
    def problems(self) -> list[Problem]:
        return list(self.rows.values())


def load_problems(
    source: str, unreadable: Literal["error", "drop"] = "error", task: TaskName = "math", *, need_solutions: bool = True
) -> DataSetRows:
    """Return the rows of a JSONL file or hub data set, in order; without `need_solutions`, solutions may be empty.

    Raises UserError if there is no readable row, or if unreadable rows are an error; it counts these and names the first.
    """
    reader = task_named(task)
    rows: Rows = {}
    unreadable_numbers: list[int] = []
    first_unreadable = ""
    for number, row in read_rows(source):
        try:
            rows[number] = _problem(row, reader, need_solutions)
        except UnreadableRowError as error:
            unreadable_numbers.append(number)
            first_unreadable = first_unreadable or f"{source}:{number}: {error}"
    if unreadable_numbers and (unreadable == "error" or not rows):
        raise UserError(first_unreadable + _others(unreadable_numbers[1:], len(rows)))
    if not rows:
        raise UserError(f"{source}: the data set is empty; give one that holds at least one problem")
    return DataSetRows(source, rows, len(unreadable_numbers), first_unreadable)


def _others(numbers: list[int], num_readable: int) -> str:
    """Return the part of the message with the other unreadable rows, and the setting that leaves them out."""
    counts = ""
    if numbers:
        shown = ", ".join(map(str, numbers[:_MAX_SHOWN])) + (", …" if len(numbers) > _MAX_SHOWN else "")
        counts = f"; {len(numbers) + 1:,} of {len(numbers) + 1 + num_readable:,} rows cannot be read, also {shown}"
    return f"{counts}; data.unreadable: drop leaves such rows out" if num_readable else counts


def _problem(row: object, task: Task, needs_solution: bool) -> Problem:
    if not isinstance(row, dict):
        raise UnreadableRowError(f"the row is {excerpt(row)}; write a JSON object with problem, solution and answer")
    problem = task.read(row, needs_solution=needs_solution)
    try:
        check_tags(problem)
    except ValueError as error:
        raise UnreadableRowError(f"{error}, which would end its response; remove the tag, or the row") from None
    return problem
