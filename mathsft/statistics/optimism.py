"""How much of the best trial's score is luck: whoever chooses the best of k on some problems also chooses its good luck."""

from collections.abc import Sequence
from dataclasses import dataclass

NUM_RESAMPLES = 2000
"""Enough for a standard error of 0.1 points on 200 problems."""


@dataclass(frozen=True)
class BestOfK:
    """The trial with the highest accuracy, and that accuracy with and without the advantage of having been chosen for it."""

    index: int
    """The earliest of equals."""
    raw: float
    optimism: float
    corrected: float
    """raw - optimism: what the chosen trial may be expected to reach on other problems, at most raw."""


def best_of_k(results: Sequence[Sequence[float]], seed: int) -> BestOfK:
    """Return the best of k trials and its accuracy corrected for the choice.

    results [trial][problem] are shares of correct responses, for all trials on the same problems. Out-of-bag bootstrap:
    problems are drawn with replacement, the best trial on those drawn is scored on those that were not, and the mean over
    all draws is the corrected accuracy. Source: Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the out-of-sample
    predictions for efficient and accurate cross-validation", Machine Learning 107 (2018). A draw says less about the trials
    than all problems do, so where they truly differ the correction is a little too large.

    Raises ValueError unless there is a trial and each has results on the same two or more problems.
    """
    import numpy as np

    correct = np.asarray(results, dtype=float)
    if correct.ndim != 2 or correct.shape[0] < 1 or correct.shape[1] < 2:
        raise ValueError(f"results of shape {correct.shape}: at least one trial and two problems")
    num_problems = correct.shape[1]
    times_drawn = np.random.default_rng(seed).multinomial(
        num_problems, np.full(num_problems, 1 / num_problems), NUM_RESAMPLES
    )
    times_drawn = times_drawn[(times_drawn == 0).any(axis=1)]  # of few problems a draw may leave none out
    left_out = (times_drawn == 0).astype(float)
    chosen = (times_drawn @ correct.T).argmax(axis=1)
    out_of_bag = (left_out * correct[chosen]).sum(axis=1) / left_out.sum(axis=1)

    accuracies = correct.mean(axis=1)
    index = int(accuracies.argmax())
    raw = float(accuracies[index])
    corrected = min(raw, float(out_of_bag.mean()))  # by the chance of the draws it may be a little higher
    return BestOfK(index=index, raw=raw, optimism=raw - corrected, corrected=corrected)
