"""Says for programs whether one checkpoint is better than another on the same problems, and what would settle it.

docs/programs.md explains the fields. A change to a field needs a new SCHEMA_VERSION if it can break a program, and a new
verdict.schema.json, which tools/make_verdict_schema.py writes.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

from pydantic import ConfigDict

from mathsft.config.load import differences, flatten
from mathsft.errors import UserError
from mathsft.objective import Objective
from mathsft.records import Run, Score
from mathsft.runs.contest import recorded_contest
from mathsft.runs.pool_names import CONFIRM_POOL, SEARCH_POOL, TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.statistics.intervals import clustered
from mathsft.statistics.paired import PairedDifference, compare
from mathsft.statistics.power import (
    MIN_PROBLEMS,
    MOST_PROBLEMS,
    POWER,
    PROVEN,
    minimum_detectable_difference,
    more_problems,
    noise_floor,
)
from mathsft.store.study_store import StudyStore

SCHEMA_VERSION: Literal[1] = 1
Decision: TypeAlias = Literal["better", "worse", "not_proven"]
DOCUMENTED = ConfigDict(use_attribute_docstrings=True)


@dataclass(frozen=True)
class Side:
    """One of two compared checkpoints."""

    __pydantic_config__ = DOCUMENTED
    study: str
    run: str
    step: int
    accuracy: float
    """Share of correct responses to the compared problems."""
    low: float
    """Lower end of the accuracy's 95 % interval."""
    high: float


@dataclass(frozen=True)
class PairedVerdict:
    """Whether the second checkpoint is better than the first on the same problems; 0.01 of a difference is a point."""

    __pydantic_config__ = DOCUMENTED
    schema_version: Literal[1]
    first: Side
    second: Side
    decision: Decision
    """Of the second: better or worse if the e-value of this direction is 20 or more, else not_proven."""
    difference: float
    """Accuracy of the second minus that of the first."""
    low: float
    """Lower end of the difference's 95 % interval, which is for a single comparison."""
    high: float
    p_value: float
    """Of McNemar's exact test, two-sided; for a single comparison."""
    e_value: float
    """Evidence for the direction of the difference; valid however often it is looked at."""
    num_problems: int
    num_gained: int
    """Problems that the second solves more often."""
    num_lost: int
    """Problems that the first solves more often."""
    pools: tuple[str, ...]
    """The pools of the compared problems."""
    noise_floor: float
    """Two equally good checkpoints differ by more than this in 5 % of comparisons on these problems."""
    minimum_detectable_difference: float | None
    """A true difference of this size is significant in 80 % of single comparisons; null for fewer than 6 problems."""
    more_problems: int | None
    """Further problems that would prove the difference with a probability of 80 % if they turn out like these; 0 if it is
    proven; null if both are equal or 100,000 are not enough."""
    cautions: tuple[str, ...]
    """Reasons for which the comparison may mislead."""
    sentence: str
    """The verdict in words."""


@dataclass(frozen=True)
class StudyVerdict:
    """What a study has proven so far; a comparison is null if its checkpoints do not exist or are the same."""

    __pydantic_config__ = DOCUMENTED
    schema_version: Literal[1]
    study: str
    promoted: str | None
    """The run of the promoted trial."""
    tuning: PairedVerdict | None
    """The promoted trial against trial 0, which has the experiment's own settings; on fresh problems if there are any."""
    runner_up: PairedVerdict | None
    """The promoted trial against the trial ranked second."""
    final: PairedVerdict | None
    """The best checkpoint of the latest scored final run against the base model; on the test pool if it is scored there."""


@dataclass(frozen=True)
class ScoredCheckpoint:
    """A checkpoint's share of correct responses to each problem that it was scored on."""

    study: str
    run: Run
    step: int
    outcomes: Mapping[str, Mapping[str, float]]
    """By pool, all slices of a pool together, and problem id."""
    num_samples: int
    chosen_on: frozenset[str]
    """Pools by whose scores this checkpoint or its settings were chosen."""

    def on(self, pool: str | None) -> dict[str, float]:
        """Return the outcomes on a pool, or on all pools, by problem id."""
        pools = self.outcomes if pool is None else [pool]
        return {problem: share for name in pools for problem, share in self.outcomes.get(name, {}).items()}

    def side(self, solved: Sequence[float]) -> Side:
        """Return the checkpoint with its accuracy on problems with these outcomes."""
        interval = clustered([round(share * self.num_samples) for share in solved], self.num_samples)
        return Side(self.study, self.run.name, self.step, fmean(solved), interval.low, interval.high)


def scored_checkpoint(store: StudyStore, run: Run, step: int | None = None) -> ScoredCheckpoint:
    """Return a run's checkpoint; by default a final run's best, another run's last. Raises UserError without a score."""
    scores = store.scores(run.name)
    steps = sorted({score.step for score in scores})
    own = [score for score in scores if score.pool == run.plan.pool]
    if not steps:
        raise UserError(f"{run.name} of study {store.study} has no score yet: choose a run that has one")
    is_chosen = step is None and run.kind == "final" and len(own) > 1
    if step is None:
        step = best_step(own) if is_chosen else steps[-1]
    elif step not in steps:
        raise UserError(
            f"{run.name} of study {store.study} has no score at step {step}; its steps: {', '.join(map(str, steps))}"
        )
    chosen_on = {run.plan.pool} if is_chosen else set[str]()
    if (promotion := store.promotion()) is not None and promotion.run == run.name:
        chosen_on |= {SEARCH_POOL, CONFIRM_POOL}
    objective = Objective.of(store.settings())
    outcomes: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.step == step:
            outcomes.setdefault(score.pool.partition(":")[0], {}).update(_solved(store, score, objective))
    return ScoredCheckpoint(store.study, run, step, outcomes, objective.num_samples, frozenset(chosen_on))


def judge(first: ScoredCheckpoint, second: ScoredCheckpoint, pool: str | None = None) -> PairedVerdict:
    """Return whether the second checkpoint is better than the first on the problems of a pool that both were scored on.

    Without a pool these are the test problems if both were scored on some, else all. Raises UserError without such problems.
    """
    for chosen in (pool,) if pool else (TEST_POOL, None):
        solved = first.on(chosen), second.on(chosen)
        if problems := [problem for problem in solved[1] if problem in solved[0]]:
            break
    else:
        raise UserError(_nothing_in_common(first, second, pool))
    outcomes = [[of_checkpoint[problem] for problem in problems] for of_checkpoint in solved]
    gain, loss = compare(*outcomes), compare(*reversed(outcomes))
    e_value = gain.e_value if gain.difference > 0 else loss.e_value
    # With several responses per problem the mean may rise although more problems are lost than gained.
    has_direction = (gain.num_gained - gain.num_lost) * gain.difference > 0
    is_proven = has_direction and e_value >= PROVEN
    discordance = fmean((after - before) ** 2 for before, after in zip(*outcomes, strict=True))
    least = minimum_detectable_difference(len(problems), discordance) if len(problems) >= MIN_PROBLEMS else None
    decision: Decision = "not_proven" if not is_proven else "better" if gain.difference > 0 else "worse"
    needed = more_problems(gain.num_gained, gain.num_lost, len(problems)) if has_direction else None
    in_pools = (name for name, of_pool in second.outcomes.items() if not of_pool.keys().isdisjoint(problems))
    pools = (chosen,) if chosen else tuple(sorted(in_pools))
    sides = first.side(outcomes[0]), second.side(outcomes[1])
    return PairedVerdict(
        schema_version=SCHEMA_VERSION,
        first=sides[0],
        second=sides[1],
        decision=decision,
        difference=gain.difference,
        low=gain.low,
        high=gain.high,
        p_value=gain.p_value,
        e_value=e_value,
        num_problems=len(problems),
        num_gained=gain.num_gained,
        num_lost=gain.num_lost,
        pools=pools,
        noise_floor=noise_floor(len(problems), discordance),
        minimum_detectable_difference=least,
        more_problems=needed,
        cautions=_cautions(first, second, pools),
        sentence=_sentence(*sides, decision, gain, e_value, needed if has_direction else 0),
    )


def study_verdict(store: StudyStore) -> StudyVerdict:
    """Return what a study has proven so far."""
    promotion = store.promotion()
    winner = store.run(promotion.run) if promotion is not None else None
    if winner is None:
        return StudyVerdict(SCHEMA_VERSION, store.study, None, None, None, _final_verdict(store))
    is_fresh = any(score.pool.startswith(f"{CONFIRM_POOL}:") for score in store.scores(winner.name))
    tuning = _judged(store, "trial-0", winner, CONFIRM_POOL if is_fresh else SEARCH_POOL)
    recorded = recorded_contest(store)
    ranking = [trial.run.name for trial in recorded[1].ranking(recorded[0])] if recorded is not None else []
    second = next((name for name in ranking if name != winner.name), None)
    runner_up = _judged(store, second, winner) if second is not None else None
    return StudyVerdict(SCHEMA_VERSION, store.study, winner.name, tuning, runner_up, _final_verdict(store))


def _judged(store: StudyStore, first: str, second: Run, pool: str | None = None) -> PairedVerdict | None:
    """Return the verdict on two runs; None if they are the same, or without problems that both were scored on."""
    other = store.run(first)
    if other is None or other.name == second.name:
        return None
    with suppress(UserError):
        return judge(scored_checkpoint(store, other), scored_checkpoint(store, second), pool)
    return None


def _final_verdict(store: StudyStore) -> PairedVerdict | None:
    for run in reversed(store.runs("final")):
        steps = {score.step for score in store.scores(run.name, run.plan.pool)}
        if len(steps) > 1 and 0 in steps:
            with suppress(UserError):  # scores whose responses are not recorded
                best = scored_checkpoint(store, run)
                return judge(scored_checkpoint(store, run, 0), best) if best.step else None
    return None


def _solved(store: StudyStore, score: Score, objective: Objective) -> dict[str, float]:
    """Return each problem's share of correct responses, by the problem's id."""
    responses = store.responses(score)
    ids = dict.fromkeys(response.problem_id for response in responses)
    return dict(zip(ids, objective.outcomes(responses), strict=True))


def _nothing_in_common(first: ScoredCheckpoint, second: ScoredCheckpoint, pool: str | None) -> str:
    def scored(checkpoint: ScoredCheckpoint) -> str:
        return f"{_name(checkpoint)} on {', '.join(sorted(checkpoint.outcomes))}"

    place = f" of the pool {pool}" if pool else ""
    return (
        f"no problem{place} was solved by both: {scored(first)}; {scored(second)}; "
        "choose other runs, steps or another --pool, or score both on the same data"
    )


def _cautions(first: ScoredCheckpoint, second: ScoredCheckpoint, pools: tuple[str, ...]) -> tuple[str, ...]:
    cautions = [
        f"{_name(checkpoint)} was chosen by its scores on {' and '.join(sorted(favoured))}, which favours it there"
        for checkpoint in (first, second)
        if (favoured := checkpoint.chosen_on.intersection(pools))
    ]
    before, after = (flatten(checkpoint.run.experiment.evaluation) for checkpoint in (first, second))
    return (*cautions, *(f"the evaluation differs: evaluation.{change}" for change in differences(before, after)))


def _sentence(
    first: Side, second: Side, decision: Decision, gain: PairedDifference, e_value: float, needed: int | None
) -> str:
    names = [f"{side.study}/{side.run}@{side.step}" for side in (first, second)]
    relation = "worse" if gain.difference < 0 else "better"
    measured = (
        f"{100 * gain.difference:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}) on the same "
        f"{gain.num_problems:,} problems"
    )
    if decision != "not_proven":
        return f"{names[1]} is {relation} than {names[0]}: {measured}."
    unproven = (
        f"It is not proven that {names[1]} is {relation} than {names[0]}: {measured}, e-value {e_value:.1f} of {PROVEN}."
    )
    if needed == 0:
        return f"{unproven} The gained and the lost problems show no direction, so no number of problems follows."
    if needed is None:
        return f"{unproven} More than {MOST_PROBLEMS:,} further problems would be needed."
    return (
        f"{unproven} {needed:,} more problems would prove it with a probability of {POWER:.0%} if they turn out like these."
    )


def _name(checkpoint: ScoredCheckpoint) -> str:
    return f"{checkpoint.study}/{checkpoint.run.name}@{checkpoint.step}"
