"""Writes the report's key findings and next steps: rules turn the store's figures into sentences.

A rule returns "" if the store lacks the records that it needs, or if its figures are unremarkable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mathsft import formats
from mathsft.accounting.ledger import IDLE, cost_ledger
from mathsft.invocation import command
from mathsft.objective import Objective, difference_of_pools, shares
from mathsft.records import Response, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.analysis import is_cut
from mathsft.reporting.best_checkpoint_sentence import best_words
from mathsft.runs.best_checkpoint import best_checkpoint
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.runs.verdict import PairedVerdict
from mathsft.statistics.paired import PairedDifference, compare
from mathsft.store.study_store import StudyStore

NUM_COMPARED = 3
"""The mean of the last scores is compared with the mean of as many scores before them."""
MUCH_IDLE, MUCH_LOST, MUCH_CUT = 0.5, 0.2, 0.05
"""Shares above which the report mentions a worker's idle time, the time of failed runs, and truncated responses."""


@dataclass(frozen=True)
class FinalRunFacts:
    """The records that the rules read: the latest final run that has a validation score, and its responses."""

    store: StudyStore
    run: Run | None
    """None if no final run has a validation score; the fields that describe the run are empty then."""
    validated: Sequence[Score]
    """The run's scores on its own pool, in the order of their steps."""
    base: Sequence[Response]
    """The base model's responses on `pool`."""
    best: Sequence[Response]
    """The best checkpoint's responses on `pool`."""
    pool: str
    """The test pool if the base model and the best checkpoint have test scores, else the run's own pool."""
    objective: Objective

    @property
    def best_score(self) -> Score:
        """Return the best checkpoint's score on the run's own pool."""
        step = best_step(self.validated)
        return next(score for score in self.validated if score.step == step)

    @property
    def num_incorrect(self) -> int:
        """Return how many of the best checkpoint's responses are not correct."""
        return sum(not self.objective.is_correct(response) for response in self.best)

    @property
    def is_format_the_main_error(self) -> bool:
        """Return whether more than half of the best checkpoint's incorrect responses fail the format."""
        return sum(map(self.objective.is_malformed, self.best)) > self.num_incorrect / 2

    def gain(self, first: Score, second: Score) -> PairedDifference:
        """Return the second score's gain in accuracy over the first; both scores are on the same problems."""
        return compare(*(self.objective.outcomes(self.store.responses(score)) for score in (first, second)))


def findings_section(store: StudyStore) -> str:
    """Return the sections "Key findings" and "Next steps"; a section without sentences is left out."""
    facts = _facts(store)
    sections = []
    for heading, rules in (("Key findings", FINDINGS), ("Next steps", NEXT_STEPS)):
        if sentences := _sentences(rules, facts):
            sections += [f"## {heading}", "\n".join(f"- {sentence}" for sentence in sentences)]
    return "\n\n".join(sections)


def next_steps(store: StudyStore) -> list[str]:
    """Return what to do next, the most useful first; each begins with a sentence that can stand alone."""
    return _sentences(NEXT_STEPS, _facts(store))


def _sentences(rules: Sequence[Callable[[FinalRunFacts], str]], facts: FinalRunFacts) -> list[str]:
    return [sentence for rule in rules if (sentence := rule(facts))]


def paired(store: StudyStore, run: Run, pool: str, step: int) -> tuple[PairedDifference, PairedDifference] | None:
    """Return the checkpoint's gain over the base model on the same problems, in accuracy and in format accuracy.

    Returns None for the base model itself, and if one of the two has no score on the pool or has other problems.
    """
    before, after = store.score(run.name, 0, pool), store.score(run.name, step, pool)
    if before is None or after is None or step == 0 or before.num_problems != after.num_problems:
        return None
    objective, responses = Objective.of(store.settings()), (store.responses(before), store.responses(after))
    return (
        compare(*(shares(given, objective.is_correct) for given in responses)),
        compare(*(shares(given, objective.is_well_formed) for given in responses)),
    )


# ---- findings


def _final_against_base(facts: FinalRunFacts) -> str:
    if facts.run is None or (gains := paired(facts.store, facts.run, facts.pool, facts.best_score.step)) is None:
        return ""
    accuracy, form = gains
    verdict = _verdict(accuracy, "is more accurate than", "is less accurate than", "cannot be distinguished from")
    return (
        f"The best checkpoint of {facts.run.name} {verdict} the base model on the same {accuracy.num_problems:,} "
        f"{facts.pool} problems: {points(accuracy)} of accuracy ({accuracy.num_gained:,} problems gained, "
        f"{accuracy.num_lost:,} lost) and {points(form)} of format accuracy."
    )


def _main_error(facts: FinalRunFacts) -> str:
    if not facts.num_incorrect:
        return ""
    failed = facts.objective.share(facts.best, facts.objective.is_malformed)
    place = "format" if facts.is_format_the_main_error else "answer"
    return (
        f"Most errors of the best checkpoint are in the {place}: of its {facts.num_incorrect:,} incorrect responses, "
        f"{failed.num:,} fail the format. That is {markdown.share(failed)} of all its responses."
    )


def _length_of_training(facts: FinalRunFacts) -> str:
    promotion = facts.store.promotion()
    if promotion is None or facts.run is None:
        return ""
    pool, trial_scores = facts.run.plan.pool, facts.store.scores(promotion.run, facts.run.plan.pool)
    if not trial_scores or trial_scores[-1].num_problems != facts.best_score.num_problems:
        return ""
    gain = facts.gain(trial_scores[-1], facts.best_score)
    verdict = _verdict(gain, "increased the accuracy", "decreased the accuracy", "made no measurable difference")
    return (
        f"Training longer than {promotion.run} {verdict}: {points(gain)} on the same {gain.num_problems:,} {pool} problems."
    )


def _selection_bias(facts: FinalRunFacts) -> str:
    best = best_checkpoint(facts.store, facts.run) if facts.run is not None else None
    return best_words(best) if best is not None else ""


def _difference_of_pools(facts: FinalRunFacts) -> str:
    """Return the difference of the best checkpoint's scores on its own pool and on test, if chance does not explain it."""
    if facts.run is None:
        return ""
    validated, tested = facts.best_score, facts.store.score(facts.run.name, facts.best_score.step, TEST_POOL)
    if tested is None:
        return ""
    low, high = difference_of_pools(validated, tested)
    if low <= 0 <= high:
        return ""
    return (
        f"The best checkpoint solves {markdown.percent(tested.accuracy)} of the {TEST_POOL} problems and "
        f"{markdown.percent(validated.accuracy)} of the {validated.pool} problems. The difference is {100 * low:+.1f} to "
        f"{100 * high:+.1f} points (95 % interval). Chance does not explain it: the two pools are not equally hard. "
        "Compare scores within one pool only."
    )


def _change_of_responses(facts: FinalRunFacts) -> str:
    if not facts.base or not facts.best:
        return ""
    responses = (facts.base, facts.best)
    base, best = (fmean(response.num_tokens for response in given) for given in responses)
    sentences = f"The best checkpoint's responses have {best:.0f} tokens on average (base model: {base:.0f})."
    entropies = [[response.entropy for response in given if response.entropy is not None] for given in responses]
    if all(entropies):
        base, best = map(fmean, entropies)
        sentences += f" Their mean token entropy is {best:.2f} nats (base model: {base:.2f})."
    return sentences


def _ungraded(facts: FinalRunFacts) -> str:
    numbers = [(score, score.counts.get("ungraded", 0)) for score in facts.store.scores()]
    total = sum(number for _, number in numbers)
    if not total:
        return ""
    worst, most = max(numbers, key=lambda pair: pair[1])
    return (
        f"{total:,} responses could not be graded within the limits of time and memory. They count as not correct. "
        f"{worst.run} at step {worst.step} has the most of them: {most:,} on the pool {worst.pool}."
    )


def _end_of_the_curve(facts: FinalRunFacts) -> str:
    rise = _rise(facts)
    return f"There is no evidence that longer training helps. {rise[1]}" if rise is not None and not rise[0] else ""


# ---- next steps


def _train_longer(facts: FinalRunFacts) -> str:
    rise = _rise(facts)
    if rise is None or not rise[0]:
        return ""
    return f"Train longer (`final.num_examples`): the accuracy still rises. {rise[1]}"


def _rise(facts: FinalRunFacts) -> tuple[bool, str] | None:
    """Return whether the accuracy still rises at the end of the run, and the numbers; None if there are too few scores."""
    if facts.run is None or facts.run.state != "finished" or len(facts.validated) < 2 * NUM_COMPARED:
        return None
    late = facts.validated[-2 * NUM_COMPARED :]
    before, last = (fmean(score.accuracy for score in part) for part in (late[:NUM_COMPARED], late[NUM_COMPARED:]))
    gain = facts.gain(late[0], late[-1])
    return gain.low > 0, (
        f"The mean of the last {NUM_COMPARED} scores is {markdown.percent(last)}, the mean of the {NUM_COMPARED} "
        f"scores before them {markdown.percent(before)}. From step {late[0].step} to step {late[-1].step} the accuracy "
        f"changed by {points(gain)}."
    )


def _use_the_best(facts: FinalRunFacts) -> str:
    if facts.run is None or facts.best_score.step == facts.validated[-1].step:
        return ""
    best, last = facts.best_score, facts.validated[-1]
    change = facts.gain(best, last)
    advice = (
        f"Use the checkpoint of step {best.step}, not the last one (step {last.step})"
        if change.high < 0
        else f"Step {best.step} has the highest score, but the last checkpoint (step {last.step}) may be as good"
    )
    return f"{advice}: between them the accuracy changed by {points(change)}."


def _longer_responses(facts: FinalRunFacts) -> str:
    if not facts.best:
        return ""
    cut = facts.objective.share(facts.best, is_cut)
    if cut.share < MUCH_CUT:
        return ""
    return (
        f"Raise `evaluation.max_tokens`: {cut.num:,} of {cut.of:,} responses of the best checkpoint, {markdown.share(cut)}, "
        "reached this limit and were truncated."
    )


def _use_devices(facts: FinalRunFacts) -> str:
    for worker in cost_ledger(facts.store).worker_times:
        idle = worker.seconds.get(IDLE, 0.0)
        if worker.held_seconds and idle > MUCH_IDLE * worker.held_seconds:
            return (
                f"Consider a smaller device for the {worker.worker}: it was idle for "
                f"{markdown.percent(idle / worker.held_seconds)} of {formats.seconds(worker.held_seconds)}."
            )
    return ""


def _spend_less(facts: FinalRunFacts) -> str:
    ledger = cost_ledger(facts.store)
    busy = sum(worker.held_seconds - worker.seconds.get(IDLE, 0.0) for worker in ledger.worker_times)
    if not busy or ledger.lost_seconds < MUCH_LOST * busy:
        return ""
    return (
        f"Find out why runs failed: {formats.seconds(ledger.lost_seconds)} of the workers' busy time, "
        f"{formats.seconds(busy)}, went into failed runs."
    )


def _read_errors(facts: FinalRunFacts) -> str:
    if facts.run is None or not facts.num_incorrect:
        return ""
    category = "format_failure" if facts.is_format_the_main_error else "wrong_answer"
    show = command("show", markdown.cell(facts.store.study), "final", "--responses", category)
    return f"Read the incorrect responses: `{show}`."


FINDINGS: tuple[Callable[[FinalRunFacts], str], ...] = (
    _final_against_base,
    _difference_of_pools,
    _length_of_training,
    _main_error,
    _change_of_responses,
    _selection_bias,
    _end_of_the_curve,
    _ungraded,
)
NEXT_STEPS: tuple[Callable[[FinalRunFacts], str], ...] = (
    _train_longer,
    _use_the_best,
    _longer_responses,
    _spend_less,
    _use_devices,
    _read_errors,
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


def _verdict(gain: PairedDifference, better: str, worse: str, undecided: str) -> str:
    """Return the words for a gain whose interval lies above 0, below 0, or around it."""
    return better if gain.low > 0 else worse if gain.high < 0 else undecided


def points(gain: PairedDifference | PairedVerdict) -> str:
    """Return "+8.1 points (+5.8 to +10.6)"."""
    return f"{100 * gain.difference:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
