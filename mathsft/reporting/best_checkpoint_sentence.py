"""Says in words which checkpoint of a final run is the best one, and what its scores are worth."""

from mathsft.reporting import markdown
from mathsft.runs.best_checkpoint import BestCheckpoint


def best_words(best: BestCheckpoint) -> str:
    """Return the best checkpoint's validation score, how much the choice flatters it, and its test score."""
    validated, points = best.validated, 100 * best.optimism
    flattered = f"about {points:.1f} points" if points >= 0.05 else "less than 0.1 points"
    said = (
        f"The best of {best.num_checkpoints} checkpoints is that of step {best.step}, by its {markdown.accuracy(validated)} "
        f"of {validated.num_problems:,} {validated.pool} problems. Who is chosen for a score is flattered by it, here by "
        f"{flattered}: {markdown.percent(best.corrected_accuracy)} may be expected"
    )
    if best.tested is None:
        return f"{said}."
    return f"{said}. The {best.tested.pool} problems chose nothing: {markdown.accuracy(best.tested)}."
