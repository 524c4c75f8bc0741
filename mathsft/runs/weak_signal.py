"""Finds out whether a study's trials show enough signal to choose between them, and says what would help."""

from mathsft.objective import Objective, accuracy_interval
from mathsft.records import Run
from mathsft.runs.pool_names import SEARCH_POOL
from mathsft.statistics.paired import compare
from mathsft.store.study_store import StudyStore

MIN_TRIALS = 5
"""With fewer finished trials nothing is said."""
MAX_FACTOR = 3.0
"""An accuracy whose interval spans a larger factor is hardly known: 6 of 200 is 1.4 % to 6.4 %."""


def weak_signal(store: StudyStore) -> str:
    """Return a sentence if most finished trials differ neither from the base model nor clearly from zero, else ""."""
    base = next(iter(store.scores("baseline", SEARCH_POOL)), None)
    trials = [trial for trial in store.runs("trial") if trial.state == "finished"]
    if base is None or len(trials) < MIN_TRIALS:
        return ""
    objective = Objective.of(store.settings())
    base_outcomes = objective.outcomes(store.responses(base))
    num_weak = sum(_is_weak(trial, base_outcomes, objective, store) for trial in trials)
    if 2 * num_weak <= len(trials):
        return ""
    return (
        f"Weak signal: {num_weak} of {len(trials)} finished trials are too close to the base model or to zero on "
        f"{base.num_problems:,} search problems to choose between them; train longer trials (trial.num_examples) or score "
        "more problems (data.pools.search)"
    )


def _is_weak(trial: Run, base_outcomes: tuple[float, ...], objective: Objective, store: StudyStore) -> bool:
    score = store.scores(trial.name, SEARCH_POOL)[-1]
    interval = accuracy_interval(score)
    if interval.high > MAX_FACTOR * interval.low:
        return True
    difference = compare(base_outcomes, objective.outcomes(store.responses(score)))
    return difference.low <= 0 <= difference.high
