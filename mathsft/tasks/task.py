"""What a task is: it reads the rows of a data set, and grades answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from mathsft.records import Problem

Row: TypeAlias = Mapping[str, Any]
"""A row of a data set: values by key."""


class UnreadableRowError(Exception):
    """The row has no problem with a gold answer; the message gives the reason and what to change."""


class Pair(NamedTuple):
    """An answer and the gold answer that it is compared with."""

    answer: str
    gold: str


@dataclass(frozen=True)
class Ruling:
    """The result of comparing a pair."""

    is_equal: bool | None
    """None if the pair is undecided."""
    reason: str = ""
    """Why the pair is undecided: its process was killed, died or needed too much memory."""
    seconds: float = 0.0


class Grader(Protocol):
    """Compares answers with gold answers; answers are hostile text. Used from one thread, and closed at its end."""

    def compare(self, pairs: Sequence[Pair]) -> list[Ruling]:
        """Return a ruling for each pair, in order; no answer can make this raise or hang."""
        ...

    def close(self) -> None:
        """End the grader's processes, if it has any."""
        ...


class Task(Protocol):
    """A kind of problem: what a row means, and which answers are right."""

    def read(self, row: Row, *, needs_solution: bool) -> Problem:
        """Return the row's problem; raises UnreadableRowError. A problem that is only scored needs no solution."""
        ...

    def is_same(self, first: str, second: str) -> bool:
        """Return whether two gold answers of one problem agree; this is quick and starts no process."""
        ...

    def other_answer(self, solution: str, gold: str) -> str | None:
        """Return the answer that a solution ends with if it surely differs from the gold answer; starts no process."""
        ...

    def may_repeat(self, gold: str) -> bool:
        """Return whether many rows of a sound data set may have this gold answer."""
        ...

    def grader(self) -> Grader:
        """Return a new grader."""
        ...
