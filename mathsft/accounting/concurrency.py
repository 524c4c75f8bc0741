"""How far training and scoring went on at the same time, and how long checkpoints waited for it. From the store alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TypeAlias

from mathsft.records import WorkerCall
from mathsft.store.study_store import StudyStore

Span: TypeAlias = tuple[float, float]
"""From and to, in UTC seconds."""


@dataclass(frozen=True)
class Wait:
    """How long a published checkpoint waited for the run's own pool to be scored.

    One that a killed driver left unscored waits from the start of the driver that has it scored: what lies between is not
    the evaluator's.
    """

    run: str
    step: int
    until_begun_seconds: float
    """Until the evaluator was at work on it; of a driver's first one, its engine had to start before."""
    until_scored_seconds: float


@dataclass(frozen=True)
class Concurrency:
    """Of some runs: how long they went on, by the clock, and how much of that their workers were busy."""

    wall_seconds: float
    """From the first piece of work for them to the last, in each driver's life by itself."""
    trainer_seconds: float
    """At least one trainer was busy; neither starting nor waiting for a turn counts."""
    evaluator_seconds: float
    both_seconds: float
    waits: tuple[Wait, ...]
    """By run and step."""

    @property
    def both_busy_share(self) -> float:
        return self.both_seconds / self.wall_seconds

    @property
    def median_wait_seconds(self) -> float:
        """Return how long the median checkpoint waited until its scoring began."""
        return median(wait.until_begun_seconds for wait in self.waits)

    @property
    def max_wait_seconds(self) -> float:
        return max(wait.until_begun_seconds for wait in self.waits)


def concurrency(store: StudyStore, runs: Sequence[str]) -> Concurrency | None:
    """Return how busy the workers were while these runs went on; None where none of their checkpoints is scored yet.

    What a worker does for other runs meanwhile counts, too: it is busy.
    """
    starts = [datetime.fromisoformat(session.began).timestamp() for session in store.sessions()]
    worker_calls, worked = store.worker_calls(), _work_seconds(store)
    busy = {call: (max(call.began, call.ended - worked.get(_key(call), 0.0)), call.ended) for call in worker_calls}
    pools = {run.name: run.plan.pool for run in store.runs()}
    waits = _waits({call: span for call, span in busy.items() if call.run in runs}, pools, starts)
    if not waits:
        return None
    windows = _windows([span for call, span in busy.items() if call.run in runs], starts)
    training = _clipped(_union(span for call, span in busy.items() if not call.pool), windows)
    scoring = _clipped(_union(span for call, span in busy.items() if call.pool), windows)
    return Concurrency(
        _length(windows), _length(training), _length(scoring), _length(_clipped(training, scoring)), tuple(waits)
    )


def _key(call: WorkerCall) -> tuple[str, int, str]:
    return call.run, call.step, call.pool


def _work_seconds(store: StudyStore) -> dict[tuple[str, int, str], float]:
    """Return the seconds that each piece of work took in the worker itself, without those of starting an engine."""
    checkpoints = [checkpoint for run in store.runs() for checkpoint in store.checkpoints(run.name)]
    trained = {(one.run, one.step, ""): one.costs.busy_seconds for one in checkpoints}
    return trained | {(score.run, score.step, score.pool): score.costs.busy_seconds for score in store.scores()}


def _waits(busy: Mapping[WorkerCall, Span], pools: Mapping[str, str], starts: Sequence[float]) -> list[Wait]:
    """Return a wait for every checkpoint's last scoring on its run's own pool; worker_calls are in the order they began."""
    published, waits = {}, {}
    for call, (start, end) in busy.items():
        key = call.run, call.step
        if not call.pool:
            published[key] = end
        elif call.pool == pools[call.run] and key in published:
            since = max(published[key], max((life for life in starts if life <= end), default=0.0))
            waits[key] = Wait(*key, max(0.0, start - since), end - since)
    return [waits[key] for key in sorted(waits)]


def _windows(spans: Sequence[Span], starts: Sequence[float]) -> list[Span]:
    """Return from when to when something went on, in each driver's life by itself."""
    lives: dict[float, list[Span]] = {}
    for span in spans:
        life = max((start for start in starts if start <= span[1]), default=0.0)
        lives.setdefault(life, []).append(span)
    return [(min(start for start, _ in life), max(end for _, end in life)) for _, life in sorted(lives.items())]


def _union(spans: Iterable[Span]) -> list[Span]:
    """Return the time that any of the spans covers, as spans apart from each other, ascending."""
    union: list[Span] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def _clipped(spans: Sequence[Span], windows: Sequence[Span]) -> list[Span]:
    """Return the time that both cover; each is ascending and apart."""
    clipped = [(max(span[0], window[0]), min(span[1], window[1])) for span in spans for window in windows]
    return [(start, end) for start, end in clipped if start < end]


def _length(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)
