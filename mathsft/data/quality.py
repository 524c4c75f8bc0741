"""Groups a data set's rows by problem, finds contradictory gold answers, and reports suspiciously frequent ones."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

from mathsft.data.folding import pool_key, problem_key
from mathsft.data.problems import DataSetRows, Rows
from mathsft.errors import UserError, excerpt
from mathsft.records import FrequentGold, Problem, Quality
from mathsft.tasks.rows import pool_position
from mathsft.tasks.task import Task

Solutions: TypeAlias = tuple[Problem, ...]
"""All rows of one problem, in an order independent of the data set's order; their texts may differ in spelling."""

_FREQUENT_SHARE = 0.02
"""A gold text that is no number and occurs in more than this share of the rows may mean that there is no answer."""
_MIN_FREQUENT = 3
"""Least number of rows with such a gold text, because in a small file one row is a large share."""

_MAX_SHOWN = 3


@dataclass(frozen=True)
class DistinctProblems:
    """The distinct problems of a data set by key, sorted by pool_position, and counts of what was found in its rows."""

    problems: dict[str, Solutions]
    num_variants: int
    """Texts that are another spelling of an earlier text."""
    num_contradictory: int
    """Problems left out because their rows have different gold answers."""
    num_contradictory_rows: int


def distinct_problems(data_set: DataSetRows, contradictions: Literal["error", "drop"], task: Task) -> DistinctProblems:
    """Return the distinct problems; problems with different gold answers are dropped, or raise UserError."""
    groups = _grouped(data_set.rows, pool_key)
    contradictory = list(chain.from_iterable(_contradictory(group, task) for group in groups.values()))
    left_out = {number for rows, _ in contradictory for number in rows}
    if contradictory and contradictions == "error":
        examples = [_contradiction_text(*found) for found in contradictory[:_MAX_SHOWN]]
        examples += ["…"] if len(contradictory) > _MAX_SHOWN else []
        raise UserError(
            f"{data_set.source}: rows of one problem have different gold answers, in {len(contradictory):,} of "
            f"{len(groups):,} problems ({len(left_out):,} rows): {'; '.join(examples)}; correct the rows, or leave all of "
            "them out with data.contradictions: drop"
        )
    remaining = {
        key: [problem for number, problem in group.items() if number not in left_out] for key, group in groups.items()
    }
    kept = {key: problems for key, problems in remaining.items() if problems}
    ranked = sorted(kept, key=lambda key: min((pool_position(problem.problem), problem.problem) for problem in kept[key]))
    return DistinctProblems(
        problems={key: tuple(sorted(kept[key], key=_solution_order)) for key in ranked},
        num_variants=sum(len({problem.problem for problem in problems}) - 1 for problems in kept.values()),
        num_contradictory=len(contradictory),
        num_contradictory_rows=len(left_out),
    )


def quality_of(
    sources: Sequence[DataSetRows],
    data_sets: Sequence[DistinctProblems],
    num_overlapping: int,
    train: Sequence[Problem],
    task: Task,
) -> Quality:
    """Return the counts for all sources together, and for the pool train."""
    return Quality(
        num_rows=sum(len(source.rows) for source in sources),
        num_unreadable=sum(source.num_unreadable for source in sources),
        first_unreadable=next((source.first_unreadable for source in sources if source.first_unreadable), ""),
        num_contradictory=sum(data_set.num_contradictory for data_set in data_sets),
        num_contradictory_rows=sum(data_set.num_contradictory_rows for data_set in data_sets),
        num_variants=sum(data_set.num_variants for data_set in data_sets),
        num_overlapping=num_overlapping,
        num_repeated=len(train) - len({(problem.problem, problem.solution, problem.answer) for problem in train}),
        frequent_golds=tuple(chain.from_iterable(_frequent_golds(source, task) for source in sources)),
    )


def _frequent_golds(data_set: DataSetRows, task: Task) -> list[FrequentGold]:
    """Return the gold texts that occur in many rows although they should not, the most frequent first."""
    num_rows, first_rows = len(data_set.rows), {row.answer: number for number, row in reversed(data_set.rows.items())}
    return [
        FrequentGold(gold, count, num_rows, f"{data_set.source}:{first_rows[gold]}")
        for gold, count in Counter(problem.answer for problem in data_set.problems).most_common()
        if count >= _MIN_FREQUENT and count > _FREQUENT_SHARE * num_rows and not task.may_repeat(gold)
    ]


def _grouped(rows: Rows, key: Callable[[str], str]) -> dict[str, Rows]:
    groups: dict[str, Rows] = {}
    for number, problem in rows.items():
        groups.setdefault(key(problem.problem), {})[number] = problem
    return groups


def _contradictory(group: Rows, task: Task) -> list[tuple[Rows, int]]:
    """Return the problems of the group whose gold answers differ: their rows, and the first row with another answer."""
    if len({problem.answer for problem in group.values()}) == 1:
        return []
    problems = _grouped(group, problem_key).values()
    return [(rows, other) for rows in problems if (other := _other_gold(rows, task)) is not None]


def _other_gold(rows: Rows, task: Task) -> int | None:
    """Return the number of the first row whose gold answer differs in value from the first row's, or None."""
    first = next(iter(rows.values())).answer
    by_gold = {problem.answer: number for number, problem in reversed(rows.items())}
    other = (number for gold, number in by_gold.items() if gold != first and not task.is_same(gold, first))
    return min(other, default=None)


def _contradiction_text(rows: Rows, other: int) -> str:
    """Return the description of a contradiction for an error message."""
    first = min(rows)
    golds = [f"{excerpt(rows[number].answer)} in row {number}" for number in (first, other)]
    return f"{excerpt(rows[first].problem)} has {' and '.join(golds)}"


def _solution_order(problem: Problem) -> tuple[str, str, int, str, str]:
    return problem.solution, problem.answer, problem.level or 0, problem.subject or "", problem.problem
