"""Groups a data set's rows by problem, finds contradictory gold answers, and reports suspiciously frequent ones."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

from mathsft.data.folding import pool_key, problem_key
from mathsft.data.problems import NUM_EXAMPLES, DataSetRows, Rows
from mathsft.data.raw_rows import Place
from mathsft.errors import UserError, excerpt
from mathsft.records import Finding, Problem
from mathsft.tasks.rows import pool_position
from mathsft.tasks.task import Task

Solutions: TypeAlias = tuple[Problem, ...]
"""All rows of one problem, in an order independent of the data set's order; their texts may differ in spelling."""

_FREQUENT_SHARE = 0.02
"""A gold text that is no number and occurs in more than this share of the rows may mean that there is no answer."""
_MIN_FREQUENT = 3
"""Least number of rows with such a gold text, because in a small file one row is a large share."""


@dataclass(frozen=True)
class DistinctProblems:
    """The distinct problems of a data set by key, sorted by pool_position, and counts of what was found in its rows."""

    problems: dict[str, Solutions]
    findings: tuple[Finding, ...]
    """The texts that are another spelling of a problem, and the problems left out because their gold answers differ."""


def distinct_problems(data_set: DataSetRows, contradictions: Literal["error", "drop"], task: Task) -> DistinctProblems:
    """Return the distinct problems; problems with different gold answers are dropped, or raise UserError."""
    groups = _grouped(data_set.rows, pool_key)
    contradictory = list(chain.from_iterable(_contradictory(group, task) for group in groups.values()))
    left_out = {place for rows, _ in contradictory for place in rows}
    examples = [_contradiction_text(data_set.source, rows, other) for rows, other in contradictory[:NUM_EXAMPLES]]
    if contradictory and contradictions == "error":
        examples += ["…"] if len(contradictory) > NUM_EXAMPLES else []
        raise UserError(
            f"{data_set.source}: rows of one problem have different gold answers, in {len(contradictory):,} of "
            f"{len(groups):,} problems ({len(left_out):,} rows): {'; '.join(examples)}; correct the rows, or leave all of "
            "them out with data.contradictions: drop"
        )
    remaining = {
        key: [problem for place, problem in group.items() if place not in left_out] for key, group in groups.items()
    }
    kept = {key: problems for key, problems in remaining.items() if problems}
    ranked = sorted(kept, key=lambda key: min((pool_position(problem.problem), problem.problem) for problem in kept[key]))
    return DistinctProblems(
        problems={key: tuple(sorted(kept[key], key=_solution_order)) for key in ranked},
        findings=found(
            Finding("contradictory", len(contradictory), len(left_out), tuple(examples)),
            _variants(kept.values()),
        ),
    )


def found(*findings: Finding) -> tuple[Finding, ...]:
    """Return the findings that occur; those of one kind (of several data sets) as one, in the order of the first."""
    by_kind: dict[str, Finding] = {}
    for finding in findings:
        if finding.count:
            other = by_kind.get(finding.kind, Finding(finding.kind, 0, 0, ()))
            by_kind[finding.kind] = Finding(
                finding.kind,
                other.count + finding.count,
                other.num_rows + finding.num_rows,
                (*other.examples, *finding.examples)[:NUM_EXAMPLES],
            )
    return tuple(by_kind.values())


def read_findings(data_set: DataSetRows, task: Task) -> tuple[Finding, ...]:
    """Return what is found in a data set row by row: unreadable rows, system turns, suspiciously frequent gold answers."""
    num_unreadable, num_system_turns = data_set.num_unreadable, data_set.num_system_turns
    return found(
        Finding("unreadable", num_unreadable, num_unreadable, data_set.unreadable),
        Finding("system", num_system_turns, num_system_turns, data_set.system_turns),
        _frequent_golds(data_set, task),
    )


def repeated_rows(train: Sequence[Problem]) -> Finding:
    """Return the training rows that are exact copies of another row."""
    copies = Counter((problem.problem, problem.solution, problem.answer) for problem in train)
    examples = [f"{count} times {excerpt(row[0])}" for row, count in copies.items() if count > 1]
    num_repeated = len(train) - len(copies)
    return Finding("repeated", num_repeated, num_repeated, tuple(examples[:NUM_EXAMPLES]))


def _variants(groups: Iterable[Sequence[Problem]]) -> Finding:
    """Return the texts that are another spelling of a problem."""
    spellings = [list(dict.fromkeys(problem.problem for problem in problems)) for problems in groups]
    others = [(first, other) for first, *rest in spellings for other in rest]
    examples = tuple(f"{excerpt(other)} is {excerpt(first)}" for first, other in others[:NUM_EXAMPLES])
    return Finding("variant", len(others), len(others), examples)


def _frequent_golds(data_set: DataSetRows, task: Task) -> Finding:
    """Return the gold texts that occur in many rows although they should not, the most frequent first."""
    num_rows, first_rows = len(data_set.rows), {row.answer: place for place, row in reversed(data_set.rows.items())}
    golds = [
        (gold, count)
        for gold, count in Counter(problem.answer for problem in data_set.problems).most_common()
        if count >= _MIN_FREQUENT and count > _FREQUENT_SHARE * num_rows and not task.may_repeat(gold)
    ]
    examples = [
        f"{excerpt(gold)} in {count:,} of {num_rows:,} rows, the first in {first_rows[gold]}" for gold, count in golds
    ]
    return Finding("frequent", len(golds), sum(count for _, count in golds), tuple(examples[:NUM_EXAMPLES]))


def _grouped(rows: Rows, key: Callable[[str], str]) -> dict[str, Rows]:
    groups: dict[str, Rows] = {}
    for place, problem in rows.items():
        groups.setdefault(key(problem.problem), {})[place] = problem
    return groups


def _contradictory(group: Rows, task: Task) -> list[tuple[Rows, Place]]:
    """Return the problems of the group whose gold answers differ: their rows, and the first row with another answer."""
    if len({problem.answer for problem in group.values()}) == 1:
        return []
    problems = _grouped(group, problem_key).values()
    return [(rows, other) for rows in problems if (other := _other_gold(rows, task)) is not None]


def _other_gold(rows: Rows, task: Task) -> Place | None:
    """Return the place of the first row whose gold answer differs in value from the first row's, or None."""
    first = next(iter(rows.values())).answer
    by_gold = {problem.answer: place for place, problem in reversed(rows.items())}
    other = (place for gold, place in by_gold.items() if gold != first and not task.is_same(gold, first))
    return min(other, default=None)


def _contradiction_text(source: str, rows: Rows, other: Place) -> str:
    """Return the description of a contradiction for an error message."""
    first = min(rows)
    golds = [
        f"{excerpt(rows[place].answer)} in {f'row {place.number}' if place.file == source else place}"
        for place in (first, other)
    ]
    return f"{excerpt(rows[first].problem)} has {' and '.join(golds)}"


def _solution_order(problem: Problem) -> tuple[str, str, int, str, str]:
    return problem.solution, problem.answer, problem.level or 0, problem.subject or "", problem.problem
