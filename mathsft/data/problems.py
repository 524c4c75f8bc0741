"""Reads the problems of a data set, whose rows the task understands; unreadable rows raise an error or are counted."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mathsft.config.schema import ColumnSettings, TaskName
from mathsft.data.raw_rows import Place, read_rows
from mathsft.data.row_layouts import SYSTEM_KEY, common_rows
from mathsft.errors import UserError, excerpt
from mathsft.prompts.tags import check_tags
from mathsft.records import Problem
from mathsft.tasks.by_name import task_named
from mathsft.tasks.task import Row, Task, UnreadableRowError

NUM_EXAMPLES = 3
"""Most examples of each finding."""
_MAX_SHOWN = 5
_KNOWN_NAMES = ColumnSettings()


Rows: TypeAlias = dict[Place, Problem]
"""Problems by the place of their row in the data set."""


@dataclass(frozen=True)
class DataSetRows:
    """The readable rows of a data set, and the number of those that are unreadable or have a system turn."""

    source: str
    rows: Rows
    num_unreadable: int = 0
    unreadable: tuple[str, ...] = ()
    """Where the first unreadable rows are, and why they cannot be read."""
    num_system_turns: int = 0
    system_turns: tuple[str, ...] = ()
    """Where the first system turns are, and how they begin."""

    @property
    def problems(self) -> list[Problem]:
        return list(self.rows.values())


def load_problems(
    source: str,
    unreadable: Literal["error", "drop"] = "error",
    task: TaskName = "math",
    columns: ColumnSettings = _KNOWN_NAMES,
    *,
    need_solutions: bool = True,
) -> DataSetRows:
    """Return the rows of a data set, in order; without `need_solutions`, solutions may be empty.

    Raises UserError if there is no readable row, or if unreadable rows are an error; it counts these and names the first.
    """
    reader = task_named(task)
    rows: Rows = {}
    unreadable_places: list[Place] = []
    unreadable_texts: list[str] = []
    system_turns: list[str] = []

    def leave_out(place: Place, error: UnreadableRowError) -> None:
        unreadable_places.append(place)
        if len(unreadable_texts) < NUM_EXAMPLES:
            unreadable_texts.append(f"{place}: {error}")

    for place, raw_row in read_rows(source):
        try:
            solutions = _common_rows(raw_row, columns)
        except UnreadableRowError as error:
            leave_out(place, error)
            continue
        for number, row in enumerate(solutions):
            try:
                rows[place._replace(solution=number)] = _problem(row, reader, need_solutions)
            except UnreadableRowError as error:
                leave_out(place, error)
                continue
            if system := row.get(SYSTEM_KEY):
                system_turns.append(f"{place}: {excerpt(system)}")
    if unreadable_places and (unreadable == "error" or not rows):
        raise UserError(unreadable_texts[0] + _others(unreadable_places, len(rows)))
    if not rows:
        raise UserError(f"{source}: the data set is empty; give one that holds at least one problem")
    return DataSetRows(
        source,
        rows,
        len(unreadable_places),
        tuple(unreadable_texts),
        len(system_turns),
        tuple(system_turns[:NUM_EXAMPLES]),
    )


def _others(places: list[Place], num_readable: int) -> str:
    """Return the part of the message with the unreadable rows after the first, and the setting that leaves them out."""
    counts, first, others = "", places[0], places[1:]
    if others:
        names = list(dict.fromkeys(str(place.number if place.file == first.file else place) for place in others))
        shown = ", ".join(names[:_MAX_SHOWN]) + (", …" if len(names) > _MAX_SHOWN else "")
        counts = f"; {len(places):,} of {len(places) + num_readable:,} rows cannot be read, also {shown}"
    return f"{counts}; data.unreadable: drop leaves such rows out" if num_readable else counts


def _common_rows(row: object, columns: ColumnSettings) -> list[Row]:
    if not isinstance(row, dict):
        raise UnreadableRowError(f"the row is {excerpt(row)}; write a JSON object with problem, solution and answer")
    return common_rows(row, columns)


def _problem(row: Row, task: Task, needs_solution: bool) -> Problem:
    problem = task.read(row, needs_solution=needs_solution)
    try:
        check_tags(problem)
    except ValueError as error:
        raise UnreadableRowError(f"{error}, which would end its response; remove the tag, or the row") from None
    return problem
