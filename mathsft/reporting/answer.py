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
from mathsft.statistics.paired import PairedDifference, compare
from mathsft.store.study_store import StudyStore

PROOF = 20
"""The e-value from which a gain counts as proven: without a gain it is reached with a probability of at most 1/20."""
LARGEST_SHOWN = 1_000_000
LATER_NOTES = ("tuning ", "the data do not show", "training.")
"""How the notes begin that follow the comparison with the second best: `study/choice_notes.py` writes them."""


def answer(store: StudyStore) -> str:
    """Return the conclusion, and answers to the reader's first questions as a list, without those that lack records."""
    items = {
        "Winner": _winner(store),
        "Gain": _gain(store),
        "Is it proven?": _proof(store),
        "Cost": _cost(store),
        "Next step": _next(store),
    }
    listed = "\n".join(f"- **{question}** {words}" for question, words in items.items() if words)
    return "\n\n".join(part for part in (f"**{conclusion(store)}**", listed) if part)


def tuning_gain(store: StudyStore, promotion: Promotion) -> PairedDifference | None:
    """Return the promoted trial's gain over trial 0, the experiment's own settings, on the fresh problems that both solved.

    Returns None if there are no such problems, and if trial 0 is promoted.
    """
    objective = Objective.of(store.settings())
    of_winner, of_own = (
        {score.pool: score for score in store.scores(run) if score.pool.startswith(f"{CONFIRM_POOL}:")}
        for run in (promotion.run, "trial-0")
    )
    pools = [pool for pool in of_winner if pool in of_own]
    if not pools or promotion.run == "trial-0":
        return None
    own, winner = (
        [outcome for pool in pools for outcome in objective.outcomes(store.responses(scores[pool]))]
        for scores in (of_own, of_winner)
    )
    return compare(own, winner)


def verdict_on(gain: PairedDifference) -> str:
    """Return whether a gain is proven, in words with its e-value or interval."""
    if gain.e_value >= PROOF:
        value = f"over {LARGEST_SHOWN:,}" if gain.e_value > LARGEST_SHOWN else f"{gain.e_value:,.0f}"
        return f"yes (e-value {value}; proof needs {PROOF})"
    if gain.low > 0:
        return f"likely, not yet proven (the 95 % interval is above 0; e-value {gain.e_value:.1f}, proof needs {PROOF})"
    if gain.high < 0:
        return "no, it is worse (the 95 % interval is below 0)"
    return f"no (the 95 % interval of {gain.num_problems:,} problems contains 0; more problems would tell)"


# ---- the items


def _winner(store: StudyStore) -> str:
    promotion = store.promotion()
    if promotion is None:
        return ""
    return f"{markdown.settings(promotion.overrides)} ({promotion.run})"


def _final_gain(store: StudyStore) -> tuple[PairedDifference, str] | None:
    """Return the latest final run's gain over the base model, and the pool."""
    for run in reversed(store.runs("final")):
        if validated := store.scores(run.name, run.plan.pool):
            for pool in (TEST_POOL, run.plan.pool):
                if gains := paired(store, run, pool, best_step(validated)):
                    return gains[0], pool
    return None


def _gain(store: StudyStore) -> str:
    parts = []
    if found := _final_gain(store):
        gain, pool = found
        parts.append(f"Final run: {points(gain)} over the base model on {gain.num_problems:,} {pool} problems.")
    promotion = store.promotion()
    if promotion is not None and (tuned := tuning_gain(store, promotion)):
        parts.append(
            f"Tuning: {points(tuned)} over the experiment's own settings (trial-0) on {tuned.num_problems:,} fresh problems."
        )
    elif promotion is not None and promotion.run == "trial-0":
        parts.append("Tuning: nothing better than the experiment's own settings (trial-0) was found.")
    return " ".join(parts)


def _proof(store: StudyStore) -> str:
    parts = []
    if found := _final_gain(store):
        parts.append(f"Final run: {verdict_on(found[0])}.")
    promotion = store.promotion()
    if promotion is not None and (tuned := tuning_gain(store, promotion)):
        parts.append(f"Tuning: {verdict_on(tuned)}.")
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
