"""Chooses the winner and the next settings to try: pure functions of the recorded results.

The driver calls `decide` repeatedly: it returns Confirm while checkpoints must still be scored, and then a Promotion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import SearchRange
from mathsft.records import Finalist, Overrides, Promotion
from mathsft.runs.contest import Contest, Rule, finished, hold_contest, observe, ranked, smoothed
from mathsft.runs.pool_names import SEARCH_POOL
from mathsft.runs.results import TrialResult
from mathsft.statistics.optimism import best_of_k
from mathsft.statistics.surface import new_optimum
from mathsft.study.choice_notes import edge_notes, own_settings_note, runner_up_note

BOLDNESS = 2.0
"""Number of standard deviations in the upper confidence bound; high enough that regions with few trials are tried."""


@dataclass(frozen=True)
class Confirm:
    """Score the last checkpoints of these trials on this slice of the confirm pool, record it, and decide again."""

    trials: tuple[str, ...]
    pool: str


def decide(results: Sequence[TrialResult], rule: Rule) -> Confirm | Promotion | None:
    """Return the next checkpoints to score or the promotion; None if no trial was trained to its end.

    Each round keeps the trials with the highest smoothed accuracy, which is computed from all scores so far; the last
    round's best trial wins. `bench.selection` measures how good this rule is.
    """
    contest = hold_contest(results, rule)
    if not contest.entrants:
        return None
    if pool := contest.next_pool:
        return Confirm(tuple(trial.run.name for trial in contest.entrants if pool not in trial.outcomes), pool)
    return _promote(contest, rule)


def propose(
    results: Sequence[TrialResult], space: Mapping[str, SearchRange], pending: Sequence[Overrides] = ()
) -> dict[str, Scalar]:
    """Return untried settings where the surface through all ended trials may be highest; empty where none has ended.

    It maximises the upper bound of the accuracy, not its mean, so that unknown regions are tried too. Source: Srinivas,
    Krause, Kakade and Seeger, "Gaussian process optimization in the bandit setting", ICML (2010). `pending` are the settings
    of trials whose end is not known yet.
    """
    observed = observe(space, sorted(results, key=lambda result: result.number))
    if not observed:
        return {}
    return new_optimum(space, observed, BOLDNESS, pending, [result.run.overrides for result in results])


# ---- the promotion


def _promote(contest: Contest, rule: Rule) -> Promotion:
    ranking, pools = contest.ranking(rule), contest.pools
    winner, fresh = ranking[0], pools[1:]
    notes = [runner_up_note(_numbered(winner, pools), [_numbered(trial, pools) for trial in ranking[1:]])]
    compared = fresh or pools
    notes += [own_settings_note(_numbered(winner, compared), _numbered(own, compared)) for own in ranking if own.number == 0]
    notes += edge_notes(winner.run.overrides, rule.space)
    return Promotion(
        run=winner.run.name,
        overrides=winner.run.overrides,
        reason="; ".join(notes),
        evidence=_evidence(finished(contest.results), winner, fresh, rule.seed),
        finalists=_finalists(contest, rule),
    )


def _evidence(trials: Sequence[TrialResult], winner: TrialResult, fresh: Sequence[str], seed: int) -> dict[str, float]:
    """Return the winner's expected accuracy: on fresh problems, or without any the best search score less its optimism."""
    best = best_of_k([trial.outcomes[SEARCH_POOL] for trial in trials], seed)
    evidence = {"num_finished_trials": len(trials), "raw_best_accuracy": best.raw, "corrected_best_accuracy": best.corrected}
    if not fresh:
        return {**evidence, "accuracy": best.corrected}
    solved = winner.solved(fresh)
    interval = winner.interval(fresh)
    return {**evidence, "accuracy": fmean(solved), "low": interval.low, "high": interval.high, "num_problems": len(solved)}


def _finalists(contest: Contest, rule: Rule) -> tuple[Finalist, ...]:
    """Return the shortlist, best first, with each trial's result in the rounds that it took part in."""
    means = smoothed(observe(rule.space, contest.results), rule)
    return tuple(
        _finalist(trial, means[trial.run.name], [pool for _, pool in rule.rounds if pool in trial.outcomes])
        for trial in ranked(contest.shortlist, means)
    )


def _finalist(trial: TrialResult, mean: float, pools: Sequence[str]) -> Finalist:
    solved, interval = trial.solved(pools), trial.interval(pools) if pools else None
    return Finalist(
        run=trial.run.name,
        search_accuracy=trial.accuracy([SEARCH_POOL]),
        smoothed_accuracy=mean,
        num_correct=round(sum(solved) * trial.num_samples),
        num_responses=len(solved) * trial.num_samples,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def _numbered(trial: TrialResult, pools: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    return trial.number, trial.solved(pools)
