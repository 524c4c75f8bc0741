"""What responses are worth, in one place: which of them count, a problem's outcome, a score's interval.

Everything that decides or shows a result asks here, so that a study has one metric: its settings' format rule, and intervals
that take several responses to one problem for what they are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from statistics import fmean
from typing import Any, Self, get_args

from mathsft.config.schema import FormatRule
from mathsft.records import Category, Response, Score
from mathsft.statistics.intervals import Interval, clustered, effective_number, unpaired_difference

NOT_STRICT = "not_strict"
"""The reason of a response that has the lenient format and not the strict one."""


@dataclass(frozen=True)
class Share:
    """So many of so many responses, and the 95 % interval of the share."""

    num: int
    of: int
    interval: Interval

    @property
    def share(self) -> float:
        return self.num / self.of


@dataclass(frozen=True)
class Objective:
    """How a study's settings count responses."""

    format_rule: FormatRule = "lenient"
    num_samples: int = 1
    """Responses to each problem."""

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> Self:
        """Return the objective of recorded settings, by dotted name; the defaults' where none are recorded."""
        known = settings or {}
        return cls(known.get("evaluation.format_rule", "lenient"), known.get("evaluation.num_samples", 1))

    def category(self, response: Response) -> Category:
        """Return what a response counts as."""
        return "format_failure" if self.format_rule == "strict" and not response.is_strict else response.verdict.category

    def reason(self, response: Response) -> str:
        """Return why a response fails the format or is ungraded; empty for any other."""
        if self.category(response) == response.verdict.category:
            return response.verdict.reason
        return NOT_STRICT

    def is_correct(self, response: Response) -> bool:
        return self.category(response) == "correct"

    def is_malformed(self, response: Response) -> bool:
        return self.category(response) == "format_failure"

    def is_well_formed(self, response: Response) -> bool:
        return not self.is_malformed(response)

    def counts(self, responses: Iterable[Response]) -> dict[str, int]:
        """Return the number of responses of each category."""
        counted = Counter(map(self.category, responses))
        return {category: counted[category] for category in get_args(Category)}

    def outcomes(self, responses: Sequence[Response]) -> tuple[float, ...]:
        """Return each problem's share of correct responses; responses to one problem lie next to each other."""
        return shares(responses, self.is_correct)

    def solved(self, responses: Sequence[Response]) -> tuple[int, ...]:
        """Return how many problems have 0, 1, … of their responses correct."""
        counted = Counter(sum(map(self.is_correct, given)) for given in _by_problem(responses))
        return tuple(counted[count] for count in range(self.num_samples + 1))

    def share(self, responses: Sequence[Response], is_counted: Callable[[Response], bool] | None = None) -> Share:
        """Return the share of responses that count, which are the correct ones unless a rule is given."""
        is_counted = is_counted or self.is_correct
        by_problem = [sum(map(is_counted, given)) for given in _by_problem(responses)]
        return Share(sum(by_problem), len(responses), clustered(by_problem, self.num_samples))


def shares(responses: Sequence[Response], is_counted: Callable[[Response], bool]) -> tuple[float, ...]:
    """Return each problem's share of responses that count; responses to one problem lie next to each other."""
    return tuple(fmean(map(is_counted, given)) for given in _by_problem(responses))


def accuracy_interval(score: Score) -> Interval:
    """Return the 95 % interval of a score's accuracy, clustered by problem where these have several responses each."""
    return clustered(*_correct_by_problem(score))


def difference_of_pools(first: Score, second: Score) -> tuple[float, float]:
    """Return the 95 % interval of the second score's accuracy minus the first's, where each has problems of its own."""
    numbers = [independent_responses(score) for score in (first, second)]
    counts = [round(score.accuracy * number) for score, number in zip((first, second), numbers, strict=True)]
    return unpaired_difference(counts[0], numbers[0], counts[1], numbers[1])


def independent_responses(score: Score) -> int:
    """Return for how many independent responses those of a score count: the problems where each has one."""
    num_correct, num_samples = _correct_by_problem(score)
    return round(effective_number([count / num_samples for count in num_correct], num_samples))


def _correct_by_problem(score: Score) -> tuple[list[int], int]:
    """Return each problem's number of correct responses, in no order, and how many responses each has."""
    correct = score.counts["correct"]
    solved = score.solved or (sum(score.counts.values()) - correct, correct)
    return [count for count, num_problems in enumerate(solved) for _ in range(num_problems)], len(solved) - 1


def _by_problem(responses: Sequence[Response]) -> list[list[Response]]:
    return [list(given) for _, given in groupby(responses, key=attrgetter("problem_id"))]
