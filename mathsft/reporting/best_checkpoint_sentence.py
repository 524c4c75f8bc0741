"""Describes a final run's best checkpoint in words: its validation score, the bias of that score, and its test score."""

from mathsft.reporting import markdown
from mathsft.runs.best_checkpoint import BestCheckpoint


def best_words(best: BestCheckpoint) -> str:
    """Return the best checkpoint's step, its validation score with the bias of that score, and its test score."""
    validated, bias = best.validated, 100 * best.optimism
    sentences = (
        f"The best of {best.num_checkpoints} checkpoints is step {best.step}: it solves {markdown.accuracy(validated)} of "
        f"{validated.num_problems:,} {validated.pool} problems. It was selected by this score, so the score is too high by "
        f"{f'about {bias:.1f}' if bias >= 0.05 else 'less than 0.1'} points on average: expect "
        f"{markdown.percent(best.corrected_accuracy)} on other problems."
    )
    if best.tested is None:
        return sentences
    tested = f"It solves {markdown.accuracy(best.tested)} of the {best.tested.pool} problems"
    return f"{sentences} {tested}, which were not used for the selection."
