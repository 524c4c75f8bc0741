"""Computes from the store what a study has cost: how long drivers held their workers, and how these spent the time."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from mathsft.costs import ScoringCosts, TrainingCosts
from mathsft.records import Checkpoint, Run, RunState, Score, Session
from mathsft.store.study_store import Notification, StudyStore

IDLE = "idle"


@dataclass(frozen=True)
class WorkerTime:
    """How one kind of worker spent the time it was held: seconds by activity (train, save, generate, grade, …, idle)."""

    worker: str
    held_seconds: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Ledger:
    """The cost of all runs so far; a second in which two workers are held counts as two."""

    worker_times: tuple[WorkerTime, ...]
    pruned_seconds: float
    """Spent on runs that the pruner stopped."""
    lost_seconds: float
    """Spent on runs that failed."""
    points_per_device_hour: float | None
    """Points of accuracy gained over the base model per device-hour. After a finished final run: its best checkpoint on its
    own pool, and the hours of the drivers that trained it. Before: the promoted trial on search, and all hours."""

    @property
    def device_hours(self) -> float:
        """Return the hours that workers were held, idle or not."""
        return sum(worker_time.held_seconds for worker_time in self.worker_times) / 3600


class Timekeeper:
    """An observer of the store that records how long this driver had held its workers at its last result."""

    def __init__(
        self, store: StudyStore, num_trainers: int, num_evaluators: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._num_workers, self._clock = store, (num_trainers, num_evaluators), clock
        self._began, self._start = datetime.now(UTC).isoformat(), clock()

    def notify(self, record: Notification) -> None:
        """Record the time up to a new result."""
        if isinstance(record, Checkpoint | Score):
            self._store.write(Session(self._began, *self._num_workers, self._clock() - self._start))


def cost_ledger(store: StudyStore) -> Ledger:
    """Return the cost of all runs in the store."""
    runs, sessions = store.runs(), store.sessions()
    trained = {run.name: [checkpoint.costs for checkpoint in store.checkpoints(run.name)] for run in runs}
    scored = {run.name: [score.costs for score in store.scores(run.name)] for run in runs}

    def spent(state: RunState) -> float:
        names = [run.name for run in runs if run.state == state]
        of_training = sum(costs.busy_seconds * costs.num_ranks for name in names for costs in trained[name])
        return of_training + sum(costs.busy_seconds for name in names for costs in scored[name])

    worker_times = (
        _worker_time("trainer", sum(session.seconds * session.num_trainers for session in sessions), _sum(trained)),
        _worker_time("evaluator", sum(session.seconds * session.num_evaluators for session in sessions), _sum(scored)),
    )
    return Ledger(worker_times, spent("pruned"), spent("failed"), _points_per_hour(store, runs, sessions))


def _worker_time(worker: str, held_seconds: float, busy: Mapping[str, float]) -> WorkerTime:
    # The time between a killed driver's last record and its death is unknown: it counts neither as held nor as idle.
    idle = max(0.0, held_seconds - sum(busy.values()))
    return WorkerTime(worker, max(held_seconds, sum(busy.values())), {**busy, IDLE: idle})


def _sum(costs: Mapping[str, Iterable[TrainingCosts | ScoringCosts]]) -> dict[str, float]:
    """Return the seconds of each activity, summed over all runs and ranks."""
    total: dict[str, float] = {}
    for cost in chain.from_iterable(costs.values()):
        num_processes = cost.num_ranks if isinstance(cost, TrainingCosts) else 1
        for activity, seconds in cost.seconds.items():
            total[activity] = total.get(activity, 0.0) + seconds * num_processes
    return total


def _points_per_hour(store: StudyStore, runs: Sequence[Run], sessions: Sequence[Session]) -> float | None:
    """Return the points of accuracy per device-hour of the latest finished final run, else of the study."""
    finals = [run for run in runs if run.kind == "final" and run.state == "finished"]
    if finals:
        validated = store.scores(finals[-1].name, finals[-1].plan.pool)
        is_measured = len(validated) > 1 and validated[0].step == 0
        gain = 100 * (max(score.accuracy for score in validated) - validated[0].accuracy) if is_measured else None
        began = [call.began for call in store.worker_calls() if call.run == finals[-1].name]
        sessions = [session for session in sessions if any(map(session.holds, began))]
    else:
        gain = _gain_of_promoted(store)
    hours = sum(session.seconds * (session.num_trainers + session.num_evaluators) for session in sessions) / 3600
    return gain / hours if gain is not None and hours else None


def _gain_of_promoted(store: StudyStore) -> float | None:
    promotion = store.promotion()
    compared = store.run("baseline"), store.run(promotion.run) if promotion is not None else None
    values = [run.value for run in compared if run is not None and run.value is not None]
    return (values[1] - values[0]) * 100 if len(values) == len(compared) else None
