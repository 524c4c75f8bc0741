"""Reads from the store the results that the selection rule uses: each trial's outcome on each problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from mathsft.objective import Objective
from mathsft.records import Run
from mathsft.runs.pool_names import SEARCH_POOL
from mathsft.statistics.intervals import Interval, clustered
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class TrialResult:
    """The results of a trial's last checkpoint."""

    run: Run
    outcomes: Mapping[str, tuple[float, ...]]
    """By pool ("search", "confirm:0-125"), each problem's share of correct responses; all trials have the same order."""
    gold_nll: float | None = None
    """Mean gold_nll on the search pool; breaks exact ties."""
    num_samples: int = 1
    """Responses per problem."""
    curve: tuple[tuple[float, float], ...] = ()
    """Fraction of the run's optimizer steps and accuracy on the search pool at each scored eval point, ascending."""

    @property
    def number(self) -> int:
        assert self.run.number is not None
        return self.run.number

    def accuracy(self, pools: Sequence[str]) -> float:
        """Return the share of correct responses on these pools."""
        return fmean(self.solved(pools))

    def interval(self, pools: Sequence[str]) -> Interval:
        """Return the 95 % interval of the accuracy on these pools."""
        return clustered([round(share * self.num_samples) for share in self.solved(pools)], self.num_samples)

    def solved(self, pools: Sequence[str]) -> tuple[float, ...]:
        """Return the outcomes on these pools, concatenated."""
        return tuple(chain.from_iterable(self.outcomes[pool] for pool in pools))


def recorded_results(store: StudyStore) -> list[TrialResult]:
    """Return the results of every trial's last checkpoint on each pool on which it has a score."""
    objective = Objective.of(store.settings())
    return [_recorded_result(run, store, objective) for run in store.runs("trial")]


def _recorded_result(run: Run, store: StudyStore, objective: Objective) -> TrialResult:
    scores = store.scores(run.name)
    last_step = max((score.step for score in scores), default=0)
    responses_by_pool = {score.pool: store.responses(score) for score in scores if score.step == last_step}
    nlls = [response.gold_nll for response in responses_by_pool.get(SEARCH_POOL, []) if response.gold_nll is not None]
    outcomes = {pool: objective.outcomes(responses) for pool, responses in responses_by_pool.items()}
    curve = tuple((score.step / run.num_steps, score.accuracy) for score in scores if score.pool == SEARCH_POOL)
    return TrialResult(run, outcomes, fmean(nlls) if nlls else None, objective.num_samples, tuple(sorted(curve)))
