"""The confirm stage: which trials are still candidates, and the observations that the accuracy surface is fitted to.

The selection rule, the proposals and the report use the same observations, so the report draws the surface that the
decision was based on. Trials with the same settings are replicates; the earliest of them represents the setting.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import SearchRange, SelectionSettings
from mathsft.runs.pool_names import CONFIRM_POOL, SEARCH_POOL
from mathsft.runs.results import TrialResult, recorded_results
from mathsft.statistics.curves import EarlyScore, predict_end
from mathsft.statistics.intervals import effective_number
from mathsft.statistics.paired import mean_correlation
from mathsft.statistics.surface import Observation, embed, smooth
from mathsft.store.study_store import StudyStore

SMALLEST_DIFFERENCE = 1e-6
"""Accuracies are rounded to multiples of this before they are compared: smaller differences are rounding errors."""


@dataclass(frozen=True)
class Rule:
    """The settings by which a study chooses its winner."""

    space: Mapping[str, SearchRange]
    """The range of each searched setting, by dotted name."""
    selection: SelectionSettings
    num_confirm: int
    """Number of problems in the confirm pool."""
    seed: int = 0

    @property
    def rounds(self) -> list[tuple[int, str]]:
        """Return each round's number of trials and slice of the confirm pool; a small pool shrinks all in proportion."""
        wanted = self.selection.round_problems
        num_used = min(sum(wanted), self.num_confirm)
        stops = [total * num_used // sum(wanted) for total in accumulate(wanted)]
        return [
            (num_trials, f"{CONFIRM_POOL}:{start}-{stop}")
            for num_trials, (start, stop) in zip(self.selection.round_trials, pairwise([0, *stops]), strict=True)
            if start < stop
        ]


@dataclass(frozen=True)
class Observed(Observation):
    """An observation of one trial."""

    trial: TrialResult
    pools: tuple[str, ...]
    """The pools of the measured accuracy, before the conversion to the search pool; none for a trial that did not finish."""


@dataclass(frozen=True)
class Contest:
    """The state of the confirm stage that follows from the results."""

    results: tuple[TrialResult, ...]
    """Results of all trials, by number."""
    shortlist: tuple[TrialResult, ...]
    entrants: tuple[TrialResult, ...]
    """Trials of the shortlist that are still candidates; empty if no trial has finished."""
    pools: tuple[str, ...] = (SEARCH_POOL,)
    """Pools that every entrant has been scored on."""
    next_pool: str | None = None
    """Slice of the confirm pool on which some entrants still have to be scored; None if there is none."""

    def observe(self, space: Mapping[str, SearchRange]) -> list[Observed]:
        """Return the observations for the surface by which the entrants are ranked."""
        return observe(space, self.results, self.entrants, self.pools)

    def ranking(self, rule: Rule) -> list[TrialResult]:
        """Return the entrants by smoothed accuracy, best first."""
        return ranked(self.entrants, smoothed(self.observe(rule.space), rule))


def hold_contest(results: Iterable[TrialResult], rule: Rule) -> Contest:
    """Return the confirm stage after the rounds that the results cover; each round keeps the best entrants and trial 0."""
    results = tuple(sorted(results, key=lambda result: result.number))
    shortlist = tuple(_shortlist(results, rule))
    contest = Contest(results, shortlist, shortlist)
    for num_trials, pool in rule.rounds if shortlist else ():
        kept = contest.ranking(rule)[:num_trials]
        kept += [trial for trial in contest.entrants if trial.number == 0 and trial not in kept]
        contest = replace(contest, entrants=tuple(kept))
        if any(pool not in trial.outcomes for trial in kept):
            return replace(contest, next_pool=pool)
        contest = replace(contest, pools=(*contest.pools, pool))
    return contest


def recorded_contest(store: StudyStore) -> tuple[Rule, Contest] | None:
    """Return the rule and the confirm stage that a study's records show; None if the study searched no setting."""
    settings, promotion = store.settings() or {}, store.promotion()
    ranges: dict[str, dict[str, Any]] = {}
    for name, value in _section(settings, "search").items():
        setting, _, field = name.rpartition(".")
        ranges.setdefault(setting, {})[field] = value
    if not ranges:
        return None
    rule = Rule(
        space=TypeAdapter(dict[str, SearchRange]).validate_python(ranges),
        selection=SelectionSettings.model_validate(_section(settings, "selection")),
        # The number of problems that the rounds used; the pool may hold more.
        num_confirm=int(promotion.evidence.get("num_problems", 0)) if promotion is not None else 0,
    )
    return rule, hold_contest(recorded_results(store), rule)


def recorded_observations(store: StudyStore) -> tuple[Mapping[str, SearchRange], list[Observed]]:
    """Return the searched ranges and the observations that the promotion was based on; both may be empty.

    Before the promotion these are the observations on the search pool, which determine the shortlist.
    """
    recorded = recorded_contest(store)
    if recorded is None:
        return {}, []
    rule, contest = recorded
    return rule.space, contest.observe(rule.space)


def _section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}


# ---- observations


def observe(
    space: Mapping[str, SearchRange],
    results: Sequence[TrialResult],
    entrants: Sequence[TrialResult] = (),
    pools: tuple[str, ...] = (SEARCH_POOL,),
) -> list[Observed]:
    """Return an observation of each trial that has ended, as accuracy on the search pool.

    A finished trial has its accuracy: entrants on all these pools, the others on the search pool. Pools differ in
    difficulty: the mean loss of the entrants between the search pool and all pools is added to their accuracies. A pruned
    trial has the predicted accuracy at its end; it is left out while too few trials have finished. A diverged trial has
    accuracy 0. All trials solve the same problems: an easy or a hard choice of problems changes all accuracies by the same
    amount, which does not matter for a comparison. Therefore each variance is multiplied by 1 minus the mean correlation.
    """
    mean_loss = fmean([trial.accuracy([SEARCH_POOL]) - trial.accuracy(pools) for trial in entrants]) if entrants else 0.0
    entered = {trial.run.name for trial in entrants}
    own_share = 1 - mean_correlation([trial.outcomes[SEARCH_POOL] for trial in finished(results)])
    observed: list[Observed] = []
    for trial in results:
        if trial.run.state == "finished":
            entrant = trial.run.name in entered
            observed.append(_measured(trial, pools if entrant else (SEARCH_POOL,), mean_loss if entrant else 0.0, own_share))
        elif trial.run.state == "diverged":
            observed.append(Observed(trial.run.overrides, 0.0, 0.0, trial, ()))
        elif trial.run.state == "pruned" and (predicted := _predicted(space, trial, finished(results))):
            observed.append(Observed(trial.run.overrides, *predicted, trial, ()))
    return observed


def _measured(trial: TrialResult, pools: tuple[str, ...], mean_loss: float, own_share: float) -> Observed:
    solved = trial.solved(pools)
    num = effective_number(solved, trial.num_samples)
    share = (fmean(solved) * num + 1) / (num + 2)  # rule of succession: at 0 or 1 the variance would be 0
    variance = own_share * share * (1 - share) / num
    return Observed(trial.run.overrides, fmean(solved) + mean_loss, variance, trial, pools)


def _predicted(
    space: Mapping[str, SearchRange], trial: TrialResult, others: Sequence[TrialResult]
) -> tuple[float, float] | None:
    """Return mean and variance of the accuracy at the end of a pruned trial, from its last score."""
    if not trial.curve:
        return None
    fraction, accuracy = trial.curve[-1]
    own, *positions = map(tuple, embed(space, [one.run.overrides for one in (trial, *others)]).tolist())
    # Batch sizes differ, so that eval points round to different fractions of the steps.
    early = [min(other.curve, key=lambda point: abs(point[0] - fraction))[1] for other in others]
    scores = [EarlyScore(score, position) for score, position in zip(early, positions, strict=True)]
    ends = [other.curve[-1][1] for other in others]
    return predict_end(EarlyScore(accuracy, own), list(zip(scores, ends, strict=True)))


def finished(results: Iterable[TrialResult]) -> list[TrialResult]:
    """Return the results of the trials that finished."""
    return [result for result in results if result.run.state == "finished"]


# ---- order


def smoothed(observed: Sequence[Observed], rule: Rule) -> dict[str, float]:
    """Return each observed trial's smoothed accuracy on the search pool, by the name of its run."""
    means = smooth(rule.space, observed).means
    return {observation.trial.run.name: mean for observation, mean in zip(observed, means, strict=True)}


def ranked(trials: Iterable[TrialResult], accuracies: Mapping[str, float]) -> list[TrialResult]:
    """Return trials by accuracy, best first; ties go to the lower known gold NLL, then to the earlier trial."""

    def order(trial: TrialResult) -> tuple[int, float, int]:
        nll = float("inf") if trial.gold_nll is None else trial.gold_nll
        return -round(accuracies[trial.run.name] / SMALLEST_DIFFERENCE), nll, trial.number

    return sorted(trials, key=order)


def _shortlist(results: Sequence[TrialResult], rule: Rule) -> list[TrialResult]:
    """Return the best trials by smoothed accuracy, the best of the others by raw accuracy, and trial 0, if they finished."""
    contenders = _one_per_setting(results)
    if not contenders:
        return []
    best = ranked(contenders, smoothed(observe(rule.space, results), rule))[: rule.selection.num_smoothed]
    others = [trial for trial in contenders if trial not in best]
    best += ranked(others, {trial.run.name: _replicated_accuracy(results, trial) for trial in others})[
        : rule.selection.num_raw
    ]
    return best + [trial for trial in contenders if trial.number == 0 and trial not in best]


def _one_per_setting(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the earliest finished trial of each setting."""
    earliest: dict[frozenset[tuple[str, Scalar]], TrialResult] = {}
    for result in finished(results):
        earliest.setdefault(frozenset(result.run.overrides.items()), result)
    return list(earliest.values())


def _replicated_accuracy(results: Sequence[TrialResult], trial: TrialResult) -> float:
    """Return the mean accuracy on the search pool of all finished trials with this trial's settings."""
    replicates = [other for other in finished(results) if other.run.overrides == trial.run.overrides]
    return fmean([replicate.accuracy([SEARCH_POOL]) for replicate in replicates])
