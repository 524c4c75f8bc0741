"""Finds which of a data set's rows are the same problem, which of those contradict each other, and what golds look odd.

Which pool a problem is in is decided in `pools`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

from mathsft.answers.equal import equal
from mathsft.answers.normalise import normalise
from mathsft.answers.parse_answer import parsed_answers
from mathsft.answers.quantities import BasedNumber, Quantity
from mathsft.data.folding import pool_key, problem_key
from mathsft.data.pool_positions import pool_position
from mathsft.data.problems import NumberedProblem, ReadProblems
from mathsft.data.raw_rows import excerpt
from mathsft.errors import UserError
from mathsft.records import FrequentGold, Problem, Quality

Solutions: TypeAlias = tuple[Problem, ...]
"""All rows of one problem, in an order that does not depend on the order of rows; texts may differ in spelling."""

FREQUENT_SHARE = 0.02
"""A gold text that is no number and stands in more than this share of the rows may stand for none."""
MIN_FREQUENT = 3
"""ReadProblems that it stands in at least: in a small file one row is a large share."""

MAX_SHOWN = 3


@dataclass(frozen=True)
class Distinct:
    """The problems of a data set by pool_position, each under its key, and what was found while they were told apart."""

    problems: dict[str, Solutions]
    num_variants: int
    """Texts that are another one in other spelling."""
    num_contradictory: int
    """Problems left out because their rows have different gold answers."""
    num_contradictory_rows: int


def distinct(rows: ReadProblems, contradictions: Literal["error", "drop"]) -> Distinct:
    """Return the distinct problems; UserError shows those with different gold answers, unless they are to be dropped."""
    groups: dict[str, list[NumberedProblem]] = {}
    for row in rows.rows:
        groups.setdefault(pool_key(row.problem.problem), []).append(row)
    contradictory = list(chain.from_iterable(map(_contradictory, groups.values())))
    left_out = {row.number for problem in contradictory for row in problem}
    if contradictory and contradictions == "error":
        shown = [*map(_shown, contradictory[:MAX_SHOWN]), *(["…"] if len(contradictory) > MAX_SHOWN else [])]
        raise UserError(
            f"{rows.source}: rows of one problem have different gold answers, in {len(contradictory):,} of {len(groups):,} "
            f"problems ({len(left_out):,} rows): {'; '.join(shown)}; mend the rows, or leave all of them out with "
            "data.contradictions: drop"
        )
    remaining = {key: [row.problem for row in group if row.number not in left_out] for key, group in groups.items()}
    kept = {key: problems for key, problems in remaining.items() if problems}
    ranked = sorted(kept, key=lambda key: min((pool_position(problem.problem), problem.problem) for problem in kept[key]))
    return Distinct(
        problems={key: tuple(sorted(kept[key], key=_solution_order)) for key in ranked},
        num_variants=sum(len({problem.problem for problem in problems}) - 1 for problems in kept.values()),
        num_contradictory=len(contradictory),
        num_contradictory_rows=len(left_out),
    )


def quality_of(
    sources: Sequence[ReadProblems], found: Sequence[Distinct], num_overlapping: int, train: Sequence[Problem]
) -> Quality:
    """Return what was found in all sources together, and in the pool train."""
    return Quality(
        num_rows=sum(len(source.rows) for source in sources),
        num_unreadable=sum(source.num_unreadable for source in sources),
        first_unreadable=next((source.first_unreadable for source in sources if source.first_unreadable), ""),
        num_contradictory=sum(one.num_contradictory for one in found),
        num_contradictory_rows=sum(one.num_contradictory_rows for one in found),
        num_variants=sum(one.num_variants for one in found),
        num_overlapping=num_overlapping,
        num_repeated=len(train) - len({(problem.problem, problem.solution, problem.answer) for problem in train}),
        frequent_golds=tuple(chain.from_iterable(map(_frequent_golds, sources))),
    )


def _frequent_golds(rows: ReadProblems) -> list[FrequentGold]:
    """Return the gold texts that are no number and stand in many rows, the most frequent first."""
    num_rows, first_rows = len(rows.rows), {row.problem.answer: row.number for row in reversed(rows.rows)}
    counted = Counter(problem.answer for problem in rows.problems).most_common()
    return [
        FrequentGold(gold, num, num_rows, f"{rows.source}:{first_rows[gold]}")
        for gold, num in counted
        if num >= MIN_FREQUENT and num > FREQUENT_SHARE * num_rows and not _is_number(gold)
    ]


def _contradictory(group: Sequence[NumberedProblem]) -> list[list[NumberedProblem]]:
    """Return the rows of each problem in the group that has gold answers of different value."""
    if len({row.problem.answer for row in group}) == 1:
        return []
    by_problem: dict[str, list[NumberedProblem]] = {}
    for row in group:
        by_problem.setdefault(problem_key(row.problem.problem), []).append(row)
    return [rows for rows in by_problem.values() if _other_gold(rows) is not None]


def _other_gold(rows: Sequence[NumberedProblem]) -> NumberedProblem | None:
    """Return the first row whose gold answer has another value than the first row's."""
    first = rows[0].problem.answer
    by_gold = {row.problem.answer: row for row in reversed(rows)}
    other = (row for gold, row in by_gold.items() if gold != first and not (equal(gold, first) or equal(first, gold)))
    return min(other, key=lambda row: row.number, default=None)


def _shown(rows: Sequence[NumberedProblem]) -> str:
    """Return a contradiction in words."""
    golds = [f"{excerpt(row.problem.answer)} in row {row.number}" for row in (rows[0], _other_gold(rows)) if row is not None]
    return f"{excerpt(rows[0].problem.problem)} has {' and '.join(golds)}"


def _is_number(gold: str) -> bool:
    return any(
        isinstance(reading, BasedNumber) or (isinstance(reading, Quantity) and not reading.value.symbols)
        for reading in parsed_answers(normalise(gold))
    )


def _solution_order(problem: Problem) -> tuple[str, str, int, str, str]:
    return problem.solution, problem.answer, problem.level or 0, problem.subject or "", problem.problem
