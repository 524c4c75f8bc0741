"""Who wins, and what to try next: pure functions of recorded results. They run nothing and record nothing.

The driver asks again and again: `decide` answers with what is still to be scored (Confirm), until the results say who is
promoted (Promotion). Trials with the same settings are replicates of one setting, and its earliest trial stands for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean

from mathsft.config.schema import Scalar, SearchRange, SelectionSettings
from mathsft.records import Finalist, Promotion, Run
from mathsft.statistics.intervals import Interval, clustered, effective_number
from mathsft.statistics.optimism import best_of_k
from mathsft.statistics.paired import mean_correlation
from mathsft.statistics.surface import Observation, optimum, smooth
from mathsft.study.words import edge_notes, own_settings_note, runner_up_note

SEARCH_POOL = "search"
CONFIRM_POOL = "confirm"
SMALLEST_DIFFERENCE = 1e-6
"""Smoothed accuracies that differ by less are equal: they are computed in floating point."""
BOLDNESS = 2.0
"""Standard deviations above the mean at which proposals are judged: enough to look where little is known."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial's last checkpoint reached."""

    run: Run
    outcomes: Mapping[str, tuple[float, ...]]
    """By pool ("search", "confirm:0-125"), each problem's share of correct responses, in an order that all trials share."""
    gold_nll: float | None = None
    """Mean of gold_nll over the search pool; breaks exact ties."""
    num_samples: int = 1
    """Responses to each problem."""

    def interval(self, pools: Sequence[str]) -> Interval:
        """Return the 95 % interval of the accuracy on these pools."""
        return clustered([round(share * self.num_samples) for share in self.solved(pools)], self.num_samples)

    def solved(self, pools: Sequence[str]) -> tuple[float, ...]:
        """Return the outcomes on these pools, one after the other."""
        return tuple(outcome for pool in pools for outcome in self.outcomes[pool])


@dataclass(frozen=True)
class Rule:
    """What the study says about choosing."""

    space: Mapping[str, SearchRange]
    """The searched settings by dotted name."""
    selection: SelectionSettings
    num_confirm: int
    """Problems that the confirm pool holds."""
    seed: int = 0


@dataclass(frozen=True)
class Confirm:
    """Score the last checkpoints of these trials on this slice of the confirm pool, record it, and decide again."""

    trials: tuple[str, ...]
    pool: str


def decide(results: Sequence[TrialResult], rule: Rule) -> Confirm | Promotion | None:
    """Return what to score next or who won; None where no trial was trained to its end.

    The shortlist and trial 0 go through the rounds of the confirm stage; each round keeps the best by the accuracy smoothed
    over all that is known, and so is the winner chosen: `bench.selection` says what this is worth.
    """
    results = sorted(results, key=_number)
    contenders = _one_per_setting(results)
    if not contenders:
        return None
    pools = [SEARCH_POOL]
    finalists = _shortlist(results, contenders, rule)
    for num_trials, pool in _rounds(rule):
        kept = _best_first(results, finalists, pools, rule)[:num_trials]
        finalists = kept + [trial for trial in finalists if trial.run.number == 0 and trial not in kept]
        if unscored := tuple(trial.run.name for trial in finalists if pool not in trial.outcomes):
            return Confirm(unscored, pool)
        pools.append(pool)
    return _promote(results, _best_first(results, finalists, pools, rule), pools, rule)


def propose(results: Sequence[TrialResult], space: Mapping[str, SearchRange]) -> dict[str, Scalar]:
    """Return the settings where the surface through all trials so far may be highest; at least one must have ended.

    The highest upper bound of the accuracy rather than the highest mean, so that what is unknown is tried too. Source:
    Srinivas, Krause, Kakade and Seeger, "Gaussian process optimization in the bandit setting", ICML (2010).
    """
    observations = _observe(sorted(results, key=_number), [], [SEARCH_POOL])
    return optimum(space, observations, BOLDNESS)


# ---- the contest


def _one_per_setting(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the earliest finished trial of each setting."""
    earliest: dict[frozenset[tuple[str, Scalar]], TrialResult] = {}
    for result in results:
        if result.run.state == "finished":
            earliest.setdefault(frozenset(result.run.overrides.items()), result)
    return list(earliest.values())


def _shortlist(results: Sequence[TrialResult], contenders: Sequence[TrialResult], rule: Rule) -> list[TrialResult]:
    """Return the best by smoothed accuracy, the best of the others by their own, and trial 0."""
    smoothed = _best_first(results, contenders, [SEARCH_POOL], rule)[: rule.selection.num_smoothed]
    accuracies = {trial.run.name: _replicated_accuracy(results, trial) for trial in contenders if trial not in smoothed}
    raw = _ranked([trial for trial in contenders if trial not in smoothed], accuracies)[: rule.selection.num_raw]
    own = [trial for trial in contenders if trial.run.number == 0 and trial not in smoothed + raw]
    return smoothed + raw + own


def _rounds(rule: Rule) -> list[tuple[int, str]]:
    """Return each round's number of trials and slice of the confirm pool; a small pool shrinks all in proportion."""
    wanted = rule.selection.round_problems
    num_given = min(sum(wanted), rule.num_confirm)
    stops = [total * num_given // sum(wanted) for total in accumulate(wanted)]
    return [
        (num_trials, f"{CONFIRM_POOL}:{start}-{stop}")
        for num_trials, (start, stop) in zip(rule.selection.round_trials, pairwise([0, *stops]), strict=True)
        if start < stop
    ]


def _best_first(
    results: Sequence[TrialResult], entrants: Sequence[TrialResult], pools: Sequence[str], rule: Rule
) -> list[TrialResult]:
    return _ranked(entrants, _smoothed(results, entrants, pools, rule.space))


def _ranked(trials: Sequence[TrialResult], accuracies: Mapping[str, float]) -> list[TrialResult]:
    """Return trials by accuracy, ties by gold NLL where it is known, then the earlier trial first."""

    def order(trial: TrialResult) -> tuple[int, float, int]:
        nll = float("inf") if trial.gold_nll is None else trial.gold_nll
        return -round(accuracies[trial.run.name] / SMALLEST_DIFFERENCE), nll, _number(trial)

    return sorted(trials, key=order)


# ---- accuracies


def _smoothed(
    results: Sequence[TrialResult], entrants: Sequence[TrialResult], pools: Sequence[str], space: Mapping[str, SearchRange]
) -> dict[str, float]:
    """Return each ended trial's smoothed accuracy on the search pool by its name."""
    means = smooth(space, _observe(results, entrants, pools)).means
    return {trial.run.name: mean for trial, mean in zip(_ended(results), means, strict=True)}


def _observe(results: Sequence[TrialResult], entrants: Sequence[TrialResult], pools: Sequence[str]) -> list[Observation]:
    """Return what the entrants reached on all these pools and the others on the search pool, each as of the search pool.

    Pools differ in difficulty: what the entrants lose together between the search pool and all pools is given back. All
    trials solve the same problems, and where these fall out alike for all of them the draw of the problems sets none apart.
    """
    lost = fmean([_accuracy(trial, [SEARCH_POOL]) - _accuracy(trial, pools) for trial in entrants]) if entrants else 0.0
    entered = {trial.run.name for trial in entrants}
    own_share = 1 - mean_correlation([trial.outcomes[SEARCH_POOL] for trial in _finished(results)])
    return [
        _observation(trial, pools, lost, own_share)
        if trial.run.name in entered
        else _observation(trial, [SEARCH_POOL], 0.0, own_share)
        for trial in _ended(results)
    ]


def _observation(trial: TrialResult, pools: Sequence[str], lost: float, own_share: float) -> Observation:
    if trial.run.state == "diverged":
        return Observation(trial.run.overrides, 0.0, 0.0)
    solved = trial.solved(pools)
    num = effective_number(solved, trial.num_samples)
    share = (fmean(solved) * num + 1) / (num + 2)  # never 0 or 1, which would claim to be certain
    return Observation(trial.run.overrides, fmean(solved) + lost, own_share * share * (1 - share) / num)


def _accuracy(trial: TrialResult, pools: Sequence[str]) -> float:
    return fmean(trial.solved(pools))


def _replicated_accuracy(results: Sequence[TrialResult], trial: TrialResult) -> float:
    """Return the mean accuracy on the search pool of all finished trials with this trial's settings."""
    replicates = [other for other in _finished(results) if other.run.overrides == trial.run.overrides]
    return fmean([_accuracy(replicate, [SEARCH_POOL]) for replicate in replicates])


def _finished(results: Sequence[TrialResult]) -> list[TrialResult]:
    return [result for result in results if result.run.state == "finished"]


def _ended(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that say how good their settings are; a pruned one was not trained to its end."""
    return [result for result in results if result.run.state in ("finished", "diverged")]


def _number(trial: TrialResult) -> int:
    assert trial.run.number is not None
    return trial.run.number


# ---- the verdict


def _promote(results: Sequence[TrialResult], ranking: Sequence[TrialResult], pools: Sequence[str], rule: Rule) -> Promotion:
    winner, fresh = ranking[0], pools[1:]
    notes = [runner_up_note(_named(winner, pools), [_named(trial, pools) for trial in ranking[1:]])]
    notes += [
        own_settings_note(_named(winner, fresh or pools), _named(own, fresh or pools))
        for own in ranking
        if own.run.number == 0
    ]
    notes += edge_notes(winner.run.overrides, rule.space)
    return Promotion(
        run=winner.run.name,
        overrides=winner.run.overrides,
        reason="; ".join(notes),
        evidence=_evidence(_finished(results), winner, fresh, rule.seed),
        finalists=_finalists(results, rule),
    )


def _evidence(finished: Sequence[TrialResult], winner: TrialResult, fresh: Sequence[str], seed: int) -> dict[str, float]:
    """Return what may be expected of the winner: its accuracy on fresh problems, else the best one without its luck."""
    best = best_of_k([trial.outcomes[SEARCH_POOL] for trial in finished], seed)
    known = {"num_finished_trials": len(finished), "raw_best_accuracy": best.raw, "corrected_best_accuracy": best.corrected}
    if not fresh:
        return {**known, "accuracy": best.corrected}
    solved = winner.solved(fresh)
    interval = winner.interval(fresh)
    return {**known, "accuracy": fmean(solved), "low": interval.low, "high": interval.high, "num_problems": len(solved)}


def _finalists(results: Sequence[TrialResult], rule: Rule) -> tuple[Finalist, ...]:
    """Return the shortlist, best first, with what each reached in the rounds that it took part in."""
    smoothed = _smoothed(results, [], [SEARCH_POOL], rule.space)
    shortlist = _ranked(_shortlist(results, _one_per_setting(results), rule), smoothed)
    slices = [pool for _, pool in _rounds(rule)]
    return tuple(
        _finalist(trial, smoothed[trial.run.name], [pool for pool in slices if pool in trial.outcomes])
        for trial in shortlist
    )


def _finalist(trial: TrialResult, smoothed: float, pools: Sequence[str]) -> Finalist:
    solved, interval = trial.solved(pools), trial.interval(pools) if pools else None
    return Finalist(
        run=trial.run.name,
        search_accuracy=_accuracy(trial, [SEARCH_POOL]),
        smoothed_accuracy=smoothed,
        num_correct=round(sum(solved) * trial.num_samples),
        num_responses=len(solved) * trial.num_samples,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def _named(trial: TrialResult, pools: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    return _number(trial), trial.solved(pools)
