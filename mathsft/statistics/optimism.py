"""Estimates the optimism of the best of k trials: its accuracy on the problems by which it was chosen is biased upwards."""

from collections.abc import Sequence
from dataclasses import dataclass

NUM_RESAMPLES = 2000
"""Bootstrap resamples: enough for a standard error of 0.1 points on 200 problems."""


@dataclass(frozen=True)
class BestOfK:
    """The trial with the highest accuracy, its measured (raw) accuracy, and that accuracy corrected for the choice."""

    index: int
    """The trial's index; among equal trials, the first."""
    raw: float
    optimism: float
    corrected: float
    """raw - optimism, at most raw: the expected accuracy of the trial on other problems."""


def best_of_k(results: Sequence[Sequence[float]], seed: int) -> BestOfK:
    """Return the best of k trials and its accuracy corrected for the choice.

    results [trial][problem] are shares of correct responses of all trials on the same problems. The method is the out-of-bag
    bootstrap: problems are drawn with replacement, the best trial on the drawn problems is scored on the others, and the
    mean over all draws is the corrected accuracy. Source: Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the
    out-of-sample predictions for efficient and accurate cross-validation", Machine Learning 107 (2018). A draw has fewer
    distinct problems than the pool, so the correction is slightly too large if the trials truly differ.

    Raises ValueError without trials, or unless all have results on the same two or more problems.
    """
    import numpy as np

    correct = np.asarray(results, dtype=float)
    if correct.ndim != 2 or correct.shape[0] < 1 or correct.shape[1] < 2:
        raise ValueError(f"results of shape {correct.shape}: at least one trial and two problems")
    num_problems = correct.shape[1]
    drawn = np.random.default_rng(seed).integers(num_problems, size=(NUM_RESAMPLES, num_problems))
    places = drawn + num_problems * np.arange(NUM_RESAMPLES)[:, None]  # one row of counts for each draw, in one array
    times_drawn = np.bincount(places.ravel(), minlength=places.size).reshape(places.shape)
    times_drawn = times_drawn[(times_drawn == 0).any(axis=1)]  # with few problems, a draw may contain all of them
    left_out = (times_drawn == 0).astype(float)
    chosen = (times_drawn @ correct.T).argmax(axis=1)
    out_of_bag = (left_out * correct[chosen]).sum(axis=1) / left_out.sum(axis=1)

    accuracies = correct.mean(axis=1)
    index = int(accuracies.argmax())
    raw = float(accuracies[index])
    corrected = min(raw, float(out_of_bag.mean()))  # sampling noise can make the mean slightly higher
    return BestOfK(index=index, raw=raw, optimism=raw - corrected, corrected=corrected)
