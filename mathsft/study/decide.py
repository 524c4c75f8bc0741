"""Who wins: a pure function of recorded results."""

from collections.abc import Sequence

from mathsft.records import Promotion, Run


def decide(trials: Sequence[Run]) -> Promotion | None:
    """Return the promotion of the most accurate finished trial (the earliest of equals), None where none finished."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    if not finished:
        return None
    best = max(finished, key=lambda trial: (trial.value, -(trial.number or 0)))
    equals = sum(trial.value == best.value for trial in finished) - 1
    tie = f", the earliest of {equals + 1} equals" if equals else ""
    return Promotion(
        run=best.name,
        overrides=best.overrides,
        reason=f"highest accuracy on the search pool, {best.value:.1%}, of {len(finished)} trials trained to the end{tie}",
        evidence={"accuracy": best.value or 0.0, "num_finished_trials": len(finished)},
    )
