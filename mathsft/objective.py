"""Defines a study's metric: which responses are correct, the outcome of a problem, and the interval of a score.

All code that decides by results or shows them uses this module, so that the format rule of the settings, and intervals
clustered by problem, apply everywhere.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Self, get_args

from mathsft.config.schema import FormatRule
from mathsft.records import Category, Response, Score
from mathsft.statistics.intervals import Interval, clustered, effective_number, unpaired_difference

NOT_STRICT = "not_strict"
"""The reason of a response that meets the lenient format rule but not the strict one."""


@dataclass(frozen=True)
class Share:
    """A share of responses, num / of, with its 95 % confidence interval."""

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
        """Return the objective of recorded settings by dotted name; defaults replace settings that are not recorded."""
        recorded = settings or {}
        return cls(recorded.get("evaluation.format_rule", "lenient"), recorded.get("evaluation.num_samples", 1))

    def category(self, response: Response) -> Category:
        """Return the category in which a response is counted."""
        return "format_failure" if self.format_rule == "strict" and not response.is_strict else response.verdict.category

    def reason(self, response: Response) -> str:
        """Return why a response fails the format or is ungraded; empty for other responses."""
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
        """Return each problem's share of correct responses; responses to the same problem must be adjacent."""
        if self.num_samples == 1:
            return tuple(float(self.is_correct(response)) for response in responses)
        return shares(responses, self.is_correct)

    def solved(self, responses: Sequence[Response]) -> tuple[int, ...]:
        """Return the number of problems with 0, 1, … num_samples correct responses."""
        counted = Counter(sum(map(self.is_correct, group)) for group in _by_problem(responses))
        return tuple(counted[count] for count in range(self.num_samples + 1))

    def share(self, responses: Sequence[Response], is_counted: Callable[[Response], bool] | None = None) -> Share:
        """Return the share of responses for which is_counted holds; by default, the share of correct responses."""
        is_counted = is_counted or self.is_correct
        by_problem = [sum(map(is_counted, group)) for group in _by_problem(responses)]
        return Share(sum(by_problem), len(responses), clustered(by_problem, self.num_samples))


def shares(responses: Sequence[Response], is_counted: Callable[[Response], bool]) -> tuple[float, ...]:
    """Return each problem's share of responses for which is_counted holds; responses to a problem must be adjacent."""
    return tuple(sum(map(is_counted, group)) / len(group) for group in _by_problem(responses))


def accuracy_interval(score: Score) -> Interval:
    """Return the 95 % interval of a score's accuracy, clustered by problem if problems have several responses."""
    return clustered(*_correct_by_problem(score))


def difference_of_pools(first: Score, second: Score) -> tuple[float, float]:
    """Return the 95 % interval of the second score's accuracy minus the first's, for scores on different problems."""
    numbers = [independent_responses(score) for score in (first, second)]
    counts = [round(score.accuracy * number) for score, number in zip((first, second), numbers, strict=True)]
    return unpaired_difference(counts[0], numbers[0], counts[1], numbers[1])


def independent_responses(score: Score) -> int:
    """Return the effective number of independent responses of a score; the number of problems if each has one response."""
    num_correct, num_samples = _correct_by_problem(score)
    return round(effective_number([count / num_samples for count in num_correct], num_samples))


def _correct_by_problem(score: Score) -> tuple[list[int], int]:
    """Return the numbers of correct responses of all problems, in any order, and the number of responses per problem."""
    correct = score.counts["correct"]
    solved = score.solved or (sum(score.counts.values()) - correct, correct)
    return [count for count, num_problems in enumerate(solved) for _ in range(num_problems)], len(solved) - 1


def _by_problem(responses: Sequence[Response]) -> list[list[Response]]:
    return [list(group) for _, group in groupby(responses, key=attrgetter("problem_id"))]
