"""The report's findings and next steps: sentences made by rules, each with the figures it rests on.

A rule says nothing where the store lacks what it rests on; what it says turns with the figures, and none is fixed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mathsft.accounting.ledger import IDLE, Ledger, cost_ledger
from mathsft.invocation import command
from mathsft.objective import Objective, difference_of_pools, shares
from mathsft.records import Response, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.characteristics import is_cut
from mathsft.runs.best_checkpoint import best_checkpoint
from mathsft.runs.retention import TEST_POOL, best_step
from mathsft.statistics.paired import PairedDifference, compare
from mathsft.store.study_store import StudyStore

NUM_COMPARED = 3
"""Scores whose responses are compared with those of as many before, to tell whether a curve still rises."""
MUCH_IDLE, MUCH_LOST, MUCH_CUT = 0.5, 0.2, 0.05
"""Shares of time or responses from which on idle workers, time lost on stopped runs, and cut responses are worth a word."""


@dataclass(frozen=True)
class FinalRunFacts:
    """The latest final run that is scored, if there is one, with what every rule asks of the store."""

    store: StudyStore
    run: Run | None
    validated: Sequence[Score]
    """Its scores on its own pool, by step."""
    base: Sequence[Response]
    """The base model's, on the test pool where the best checkpoint is scored there, too, else on the run's own."""
    best: Sequence[Response]
    """The best checkpoint's, on the same pool."""
    pool: str
    objective: Objective


def findings_section(store: StudyStore) -> str:
    """Return what the figures say and what to do next; empty where no rule has anything to say."""
    facts = _facts(store)
    said = [sentence for rule in FINDINGS if (sentence := rule(facts))]
    steps = [sentence for rule in NEXT_STEPS if (sentence := rule(facts))]
    parts = []
    if said:
        parts += ["## Key findings", "\n".join(f"- {sentence}" for sentence in said)]
    if steps:
        parts += ["## Next steps", "\n".join(f"- {sentence}" for sentence in steps)]
    return "\n\n".join(parts)


def paired(store: StudyStore, run: Run, pool: str, step: int) -> tuple[PairedDifference, PairedDifference] | None:
    """Return the checkpoint's gain over the base model on the same problems, in accuracy and in format accuracy."""
    before, after = store.score(run.name, 0, pool), store.score(run.name, step, pool)
    if before is None or after is None or step == 0:
        return None
    if before.num_problems != after.num_problems:
        return None
    objective, responses = Objective.of(store.settings()), (store.responses(before), store.responses(after))
    return (
        compare(*(shares(given, objective.is_correct) for given in responses)),
        compare(*(shares(given, objective.is_well_formed) for given in responses)),
    )


# ---- findings


def _final_against_base(facts: FinalRunFacts) -> str:
    found = _gain_of_best(facts)
    if facts.run is None or found is None:
        return ""
    gain, form = found
    verb = "gains" if gain.low > 0 else "loses" if gain.high < 0 else "cannot be told from the base model:"
    return (
        f"On the same {gain.num_problems:,} {facts.pool} problems the best checkpoint of {facts.run.name} {verb} "
        f"{points(gain)} of accuracy ({gain.num_gained:,} problems gained, {gain.num_lost:,} lost) and {points(form)} of "
        "format accuracy against the base model."
    )


def _where_errors_lie(facts: FinalRunFacts) -> str:
    num_wrong = sum(not facts.objective.is_correct(response) for response in facts.best)
    if not num_wrong:
        return ""
    failed = facts.objective.share(facts.best, facts.objective.is_malformed)
    what = "the format" if failed.num > num_wrong / 2 else "the answers"
    return (
        f"What is left to learn is mostly {what}: of its {num_wrong:,} responses that are not correct, {failed.num:,} fail "
        f"the format, {markdown.share(failed)} of all."
    )


def _length_of_training(facts: FinalRunFacts) -> str:
    promotion = facts.store.promotion()
    if promotion is None or facts.run is None or not facts.validated:
        return ""
    trial = facts.store.scores(promotion.run, facts.run.plan.pool)
    reached = next(score for score in facts.validated if score.step == best_step(facts.validated))
    if not trial or trial[-1].num_problems != reached.num_problems:
        return ""
    found = compare(*(_solved(facts.store, score) for score in (trial[-1], reached)))
    verdict = "was worth it" if found.low > 0 else "was harmful" if found.high < 0 else "cannot be told to help"
    return (
        f"Training longer than the trial {promotion.run} {verdict}: {points(found)} on the same {found.num_problems:,} "
        f"{facts.run.plan.pool} problems."
    )


def _luck_of_the_best(facts: FinalRunFacts) -> str:
    chosen = best_checkpoint(facts.store, facts.run) if facts.run is not None else None
    if chosen is None:
        return ""
    return (
        f"The best of {chosen.num_checkpoints} checkpoints is flattered by {100 * chosen.optimism:.1f} points: "
        f"{markdown.percent(chosen.validated.accuracy)} as measured, {markdown.percent(chosen.corrected_accuracy)} expected."
    )


def _another_mix_of_problems(facts: FinalRunFacts) -> str:
    """Say so where the best checkpoint's scores on its own pool and on test differ by more than chance explains."""
    if facts.run is None or not facts.validated:
        return ""
    step, pool = best_step(facts.validated), facts.run.plan.pool
    validated, tested = (facts.store.score(facts.run.name, step, name) for name in (pool, TEST_POOL))
    if validated is None or tested is None:
        return ""
    low, high = difference_of_pools(validated, tested)
    if low <= 0 <= high:
        return ""
    return (
        f"The best checkpoint solves {markdown.percent(tested.accuracy)} of the {TEST_POOL} problems and "
        f"{markdown.percent(validated.accuracy)} of those of the pool {pool}. They differ by {100 * low:+.1f} to "
        f"{100 * high:+.1f} points (95 %), more than chance explains: the pools have another mix of problems. Compare "
        "scores on one pool only."
    )


def _change_of_responses(facts: FinalRunFacts) -> str:
    if not facts.base or not facts.best:
        return ""
    lengths = [fmean(response.num_tokens for response in given) for given in (facts.base, facts.best)]
    said = f"Responses have {lengths[1]:.0f} tokens on average, {lengths[0]:.0f} before"
    entropies = [
        [response.entropy for response in given if response.entropy is not None] for given in (facts.base, facts.best)
    ]
    if all(entropies):
        said += f"; their tokens' entropy is {fmean(entropies[1]):.2f} nats, {fmean(entropies[0]):.2f} before"
    return f"{said}."


def _ungraded(facts: FinalRunFacts) -> str:
    counted = [(score, score.counts.get("ungraded", 0)) for score in facts.store.scores()]
    total = sum(number for _, number in counted)
    if not total:
        return ""
    worst = max(counted, key=lambda pair: pair[1])[0]
    return (
        f"{total:,} responses could not be graded in time, most of them in {worst.run} at step {worst.step} on "
        f"{worst.pool}; they count as not correct."
    )


# ---- next steps


def _train_longer(facts: FinalRunFacts) -> str:
    if facts.run is None or facts.run.state != "finished" or len(facts.validated) < 2 * NUM_COMPARED:
        return ""
    late = facts.validated[-2 * NUM_COMPARED :]
    means = [fmean(score.accuracy for score in part) for part in (late[:NUM_COMPARED], late[NUM_COMPARED:])]
    found = compare(*(_solved(facts.store, score) for score in (late[0], late[-1])))
    measured = (
        f"the last {NUM_COMPARED} scores average {markdown.percent(means[1])}, the {NUM_COMPARED} before "
        f"{markdown.percent(means[0])}, and from step {late[0].step} to {late[-1].step} it is {points(found)}"
    )
    if found.low > 0:
        return f"Train longer (`final.num_examples`): the curve still rises; {measured}."
    return f"Training longer promises little: {measured}."


def _keep_the_best(facts: FinalRunFacts) -> str:
    if facts.run is None or len(facts.validated) < 2:
        return ""
    best, last = best_step(facts.validated), facts.validated[-1]
    if best == last.step:
        return ""
    reached = next(score for score in facts.validated if score.step == best)
    found = compare(*(_solved(facts.store, score) for score in (reached, last)))
    if found.high < 0:
        return f"Use the checkpoint of step {best}, not the last: that one is {points(found)} against it."
    return f"Step {best} scores best, but the last one cannot be told from it ({points(found)})."


def _longer_responses(facts: FinalRunFacts) -> str:
    if not facts.best:
        return ""
    cut = facts.objective.share(facts.best, is_cut)
    if cut.share < MUCH_CUT:
        return ""
    return (
        f"Raise `evaluation.max_tokens`: {cut.num:,} of {cut.of:,} responses of the best checkpoint, {markdown.share(cut)}, "
        "were cut at it."
    )


def _use_devices(facts: FinalRunFacts) -> str:
    ledger: Ledger = cost_ledger(facts.store)
    for account in ledger.worker_times:
        idle = account.seconds.get(IDLE, 0.0)
        if account.held_seconds and idle > MUCH_IDLE * account.held_seconds:
            return (
                f"The {account.worker} was idle for {markdown.percent(idle / account.held_seconds)} of "
                f"{markdown.seconds(account.held_seconds)}: a smaller device would do for it."
            )
    return ""


def _spend_less(facts: FinalRunFacts) -> str:
    ledger = cost_ledger(facts.store)
    worked = sum(account.held_seconds - account.seconds.get(IDLE, 0.0) for account in ledger.worker_times)
    lost = ledger.lost_seconds
    if not worked or lost < MUCH_LOST * worked:
        return ""
    return (
        f"Look into the failed runs first: {markdown.seconds(lost)} of {markdown.seconds(worked)} of work were lost on them."
    )


def _look_at_errors(facts: FinalRunFacts) -> str:
    num_wrong = sum(not facts.objective.is_correct(response) for response in facts.best)
    if facts.run is None or not num_wrong:
        return ""
    num_format = sum(map(facts.objective.is_malformed, facts.best))
    category = "format_failure" if num_format > num_wrong / 2 else "wrong_answer"
    show = command("show", markdown.cell(facts.store.study), "final", "--responses", category)
    return f"Read what went wrong: `{show}`."


FINDINGS: tuple[Callable[[FinalRunFacts], str], ...] = (
    _final_against_base,
    _another_mix_of_problems,
    _length_of_training,
    _where_errors_lie,
    _change_of_responses,
    _luck_of_the_best,
    _ungraded,
)
NEXT_STEPS: tuple[Callable[[FinalRunFacts], str], ...] = (
    _train_longer,
    _keep_the_best,
    _longer_responses,
    _spend_less,
    _use_devices,
    _look_at_errors,
)


def _facts(store: StudyStore) -> FinalRunFacts:
    objective = Objective.of(store.settings())
    for run in reversed(store.runs("final")):
        validated = store.scores(run.name, run.plan.pool)
        if not validated:
            continue
        for pool in (TEST_POOL, run.plan.pool):
            scores = [store.score(run.name, step, pool) for step in (0, best_step(validated))]
            base, best = (store.responses(score) if score is not None else [] for score in scores)
            if base and best:
                break
        return FinalRunFacts(store, run, validated, base, best, pool, objective)
    return FinalRunFacts(store, None, (), (), (), "", objective)


def _gain_of_best(facts: FinalRunFacts) -> tuple[PairedDifference, PairedDifference] | None:
    if facts.run is None or not facts.validated:
        return None
    return paired(facts.store, facts.run, facts.pool, best_step(facts.validated))


def _solved(store: StudyStore, score: Score) -> tuple[float, ...]:
    """Return each problem's share of correct responses, problems in one order for all scores."""
    return Objective.of(store.settings()).outcomes(store.responses(score))


def points(found: PairedDifference) -> str:
    """Return "+8.1 points (+5.8 to +10.6)"."""
    return f"{100 * found.difference:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
