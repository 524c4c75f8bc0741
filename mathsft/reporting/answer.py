"""Writes the report's first screen: what the study found, whether it is proven, what it cost, and what to do next."""

from itertools import takewhile

from mathsft.accounting.ledger import cost_ledger
from mathsft.invocation import command
from mathsft.objective import Objective
from mathsft.records import Promotion, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.findings import next_steps, paired, points
from mathsft.runs.pool_names import CONFIRM_POOL, TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.runs.verdict import PairedVerdict, StudyVerdict, study_verdict
from mathsft.statistics.paired import compare
from mathsft.statistics.power import PROVEN
from mathsft.store.study_store import StudyStore

LARGEST_SHOWN = 1_000_000
LATER_NOTES = ("tuning ", "the data do not show", "training.")
"""How the notes begin that follow the comparison with the second best: `study/choice_notes.py` writes them."""


def answer(store: StudyStore) -> str:
    """Return the conclusion, and answers to the reader's first questions as a list, without those that lack records."""
    verdict = study_verdict(store)
    items = {
        "Winner": _winner(store),
        "Gain": _gain(verdict),
        "Is it proven?": _proof(store, verdict),
        "Cost": _cost(store),
        "Next step": _next(store),
    }
    listed = "\n".join(f"- **{question}** {words}" for question, words in items.items() if words)
    return "\n\n".join(part for part in (f"**{conclusion(store)}**", listed) if part)


def words_of(verdict: PairedVerdict) -> str:
    """Return whether a gain is proven, in words with its e-value or interval, and how many more problems would prove it."""
    if verdict.decision == "better":
        value = f"over {LARGEST_SHOWN:,}" if verdict.e_value > LARGEST_SHOWN else f"{verdict.e_value:,.0f}"
        return f"yes (e-value {value}; proof needs {PROVEN})"
    if verdict.high < 0:
        return "no, it is worse (the 95 % interval is below 0)"
    more = f"about {verdict.more_problems:,} more problems" if verdict.more_problems else "more problems"
    if verdict.low > 0:
        return f"likely, not yet proven (the 95 % interval is above 0; e-value {verdict.e_value:.1f}; {more} would prove it)"
    return f"no (the 95 % interval of {verdict.num_problems:,} problems contains 0; {more} would tell)"


# ---- the items


def _winner(store: StudyStore) -> str:
    promotion = store.promotion()
    if promotion is None:
        return ""
    return f"{markdown.settings(promotion.overrides)} ({promotion.run})"


def _gain(verdict: StudyVerdict) -> str:
    parts = []
    if (final := verdict.final) is not None:
        pools = " and ".join(final.pools)
        parts.append(f"Final run: {points(final)} over the base model on {final.num_problems:,} {pools} problems.")
    if (tuning := verdict.tuning) is not None and CONFIRM_POOL in tuning.pools:
        solved = f"{tuning.num_problems:,} fresh problems"
        parts.append(f"Tuning: {points(tuning)} over the experiment's own settings (trial-0) on {solved}.")
    elif verdict.promoted == "trial-0":
        parts.append("Tuning: nothing better than the experiment's own settings (trial-0) was found.")
    return " ".join(parts)


def _proof(store: StudyStore, verdict: StudyVerdict) -> str:
    parts = []
    if verdict.final is not None:
        parts.append(f"Final run: {words_of(verdict.final)}.")
    if verdict.tuning is not None and CONFIRM_POOL in verdict.tuning.pools:
        parts.append(f"Tuning: {words_of(verdict.tuning)}.")
    promotion = store.promotion()
    if promotion is not None and (choice := _choice(promotion)):
        parts.append(f"Choice: {choice}.")
    return " ".join(parts)


def _choice(promotion: Promotion) -> str:
    """Return how sure the choice is, which is the beginning of the promotion's reason."""
    notes = takewhile(lambda note: not note.startswith(LATER_NOTES), promotion.reason.split("; "))
    return "; ".join(map(markdown.cell, notes))


def _cost(store: StudyStore) -> str:
    ledger = cost_ledger(store)
    if not ledger.device_hours:
        return ""
    gain = ledger.points_per_device_hour
    per_hour = "" if gain is None else f", {gain:+.1f} points of accuracy per device-hour"
    return f"{markdown.device_hours(ledger)}{per_hour}."


def _next(store: StudyStore) -> str:
    if store.promotion() is None:
        return (
            f"Run the study to its end: `{command('study', '--study', markdown.cell(store.study))}`" if store.runs() else ""
        )
    finals = store.runs("final")
    if not finals:
        return f"Train the final run: `{command('final', '--from-best', '--study', markdown.cell(store.study))}`"
    if steps := next_steps(store):
        return steps[0].partition(". ")[0].removesuffix(".") + "."
    return f"Read the responses of the final run: `{command('show', markdown.cell(store.study), 'final')}`"


# ---- the conclusion


def conclusion(store: StudyStore) -> str:
    """Return the main result: the latest final run's test scores, else its validation scores, else the best trial."""
    for run in reversed(store.runs("final")):
        for pool in (TEST_POOL, run.plan.pool):
            scores = store.scores(run.name, pool)
            if len(scores) > 1 and scores[0].step == 0:
                return _conclude_final(store, run, scores[0], _chosen(store, run, scores))
    return _conclude_study(store)


def _chosen(store: StudyStore, run: Run, scores: list[Score]) -> Score:
    """Return the score of the checkpoint that was best on the run's own pool; on that pool itself, the last score."""
    if scores[-1].pool == run.plan.pool:
        return scores[-1]  # the best score would be biased: it selected the checkpoint
    best = best_step(store.scores(run.name, run.plan.pool))
    return next((score for score in scores if score.step == best), scores[-1])


def _conclude_final(store: StudyStore, run: Run, base: Score, chosen: Score) -> str:
    sentences = (
        f"Fine-tuned with {markdown.settings(run.overrides)}, the model solves {markdown.accuracy(chosen)} of "
        f"{chosen.num_problems:,} {chosen.pool} problems at step {chosen.step}; the base model solves "
        f"{markdown.accuracy(base)}."
    )
    gains = paired(store, run, chosen.pool, chosen.step)
    if gains is None:
        return sentences
    gain, _ = gains
    verdict = "better than" if gain.low > 0 else "worse than" if gain.high < 0 else "not distinguishable from"
    return f"{sentences} On the same problems the fine-tuned model is {verdict} the base model: {points(gain)}."


def _conclude_study(store: StudyStore) -> str:
    trials = store.runs("trial")
    scored = [
        (run, scores[-1]) for run in trials if run.state == "finished" and (scores := store.scores(run.name, run.plan.pool))
    ]
    if not scored:
        return f"There is no result yet: {len(trials)} trials have begun, and none has finished."
    best, score = max(scored, key=lambda pair: (pair[1].accuracy, -(pair[0].number or 0)))
    objective = Objective.of(store.settings())
    solved = {run.name: objective.outcomes(store.responses(score)) for run, score in scored}
    gains = [compare(outcomes, solved[best.name]) for name, outcomes in solved.items() if name != best.name]
    num_alike = sum(gain.low <= 0 for gain in gains)
    return (
        f"The most accurate of {len(scored)} finished trials is {best.name} ({markdown.settings(best.overrides)}): "
        f"{markdown.accuracy(score)} of {score.num_problems:,} {score.pool} problems. {num_alike} of the other "
        f"{len(scored) - 1} cannot be distinguished from it on these problems. There is no final run yet."
    )
