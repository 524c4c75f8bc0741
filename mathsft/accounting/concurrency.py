"""Computes from the store how far training and scoring overlapped, and how long checkpoints waited for scoring."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TypeAlias

from mathsft.records import WorkerCall
from mathsft.store.study_store import StudyStore

_Span: TypeAlias = tuple[float, float]
"""Start and end, in UTC seconds."""


@dataclass(frozen=True)
class Wait:
    """How long a published checkpoint waited for its score on the run's own pool.

    If a killed driver left the checkpoint unscored, the wait begins with the next driver, which asks an
    evaluator to score it: the evaluator did not cause the time between the drivers.
    """

    run: str
    step: int
    until_started_seconds: float
    """Until the evaluator began to score it; for a driver's first checkpoint this includes the start of the engine."""
    until_scored_seconds: float


@dataclass(frozen=True)
class Concurrency:
    """How long some runs took by the clock, and for how much of that time workers were busy."""

    wall_seconds: float
    """From the first to the last piece of work for them, measured for each driver and added up."""
    trainer_seconds: float
    """Time in which at least one trainer was busy; starting and waiting for a turn do not count."""
    evaluator_seconds: float
    both_seconds: float
    waits: tuple[Wait, ...]
    """By run and step."""

    @property
    def both_busy_share(self) -> float:
        return self.both_seconds / self.wall_seconds

    @property
    def median_wait_seconds(self) -> float:
        """Return the median wait of a checkpoint until its scoring began."""
        return median(wait.until_started_seconds for wait in self.waits)

    @property
    def max_wait_seconds(self) -> float:
        return max(wait.until_started_seconds for wait in self.waits)


def concurrency(store: StudyStore, runs: Sequence[str]) -> Concurrency | None:
    """Return how busy the workers were while these runs went on; None if none of their checkpoints is scored.

    Work for other runs in that time counts as busy, too.
    """
    starts = [datetime.fromisoformat(session.began).timestamp() for session in store.sessions()]
    work_seconds = _work_seconds(store)
    busy: dict[WorkerCall, _Span] = {}
    for call in store.worker_calls():
        worked = work_seconds.get((call.run, call.step, call.pool), 0.0)
        busy[call] = max(call.began, call.ended - worked), call.ended
    busy_for_runs = {call: span for call, span in busy.items() if call.run in runs}
    waits = _waits(busy_for_runs, {run.name: run.plan.pool for run in store.runs()}, starts)
    if not waits:
        return None
    windows = _windows(busy_for_runs.values(), starts)
    training = [span for call, span in busy.items() if not call.pool]
    scoring = [span for call, span in busy.items() if call.pool]
    return Concurrency(
        wall_seconds=_common_seconds(windows),
        trainer_seconds=_common_seconds(windows, training),
        evaluator_seconds=_common_seconds(windows, scoring),
        both_seconds=_common_seconds(windows, training, scoring),
        waits=tuple(waits),
    )


def _work_seconds(store: StudyStore) -> dict[tuple[str, int, str], float]:
    """Return the seconds of work by run, step and pool, without those of starting an engine; pool is empty for training."""
    checkpoints = [checkpoint for run in store.runs() for checkpoint in store.checkpoints(run.name)]
    trained = {(checkpoint.run, checkpoint.step, ""): checkpoint.costs.busy_seconds for checkpoint in checkpoints}
    return trained | {(score.run, score.step, score.pool): score.costs.busy_seconds for score in store.scores()}


def _waits(busy: Mapping[WorkerCall, _Span], pools: Mapping[str, str], starts: Sequence[float]) -> list[Wait]:
    """Return each checkpoint's wait for its last scoring on its run's own pool; `busy` is ordered by the calls' start."""
    published, waits = {}, {}
    for call, (start, end) in busy.items():
        key = call.run, call.step
        if not call.pool:
            published[key] = end
        elif call.pool == pools[call.run] and key in published:
            since = max(published[key], _driver_start(end, starts))
            waits[key] = Wait(*key, max(0.0, start - since), end - since)
    return [waits[key] for key in sorted(waits)]


def _windows(spans: Iterable[_Span], starts: Sequence[float]) -> list[_Span]:
    """Return for each driver the span from its first to its last piece of work."""
    by_driver: dict[float, list[_Span]] = {}
    for span in spans:
        by_driver.setdefault(_driver_start(span[1], starts), []).append(span)
    return [(min(start for start, _ in own), max(end for _, end in own)) for _, own in sorted(by_driver.items())]


def _driver_start(moment: float, starts: Sequence[float]) -> float:
    """Return the start of the driver that ran at a moment: the latest one before it, 0 if none is known."""
    return max((start for start in starts if start <= moment), default=0.0)


def _common_seconds(*groups: Sequence[_Span]) -> float:
    """Return the length of the time that lies in at least one span of each group."""
    moments = sorted({moment for group in groups for span in group for moment in span})
    return sum(
        end - start
        for start, end in pairwise(moments)
        if all(any(first <= start and end <= last for first, last in group) for group in groups)
    )
