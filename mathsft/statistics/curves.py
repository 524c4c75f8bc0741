"""Predicts the accuracy at the end of a run from its accuracy at an earlier eval point, by regression on finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_FINISHED = 3
"""Fewer finished runs do not show how much runs differ."""
SLOPE_SD = 0.3
"""Prior standard deviation of the slope minus the mean ratio of late to early accuracy, in units of this ratio."""
SPEED_SD = 0.5
"""Prior standard deviation of the change of a run's own ratio over the range of a setting, in units of the mean ratio."""
NOISE_SD = 0.15
"""Prior guess of the standard deviation of ends around the prediction, as a share of the mean end."""
NOISE_RUNS = 3
"""The guess counts as much as the residuals of this number of runs."""
NUM_ITERATIONS = 3
"""Of the coefficients and the noise, each given the other; they hardly change after the third."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EarlyScore:
    """A run's accuracy at an eval point, and the position of its settings in the unit cube of the searched ranges."""

    accuracy: float
    position: tuple[float, ...]


def predict_end(early: EarlyScore, finished: Sequence[tuple[EarlyScore, float]]) -> tuple[float, float] | None:
    """Return the mean and the variance of the accuracy at the end; None with fewer than three finished runs.

    `finished` has the score of each finished run at the same eval point, and its accuracy at its end. A run with a low
    learning rate learns late: the ratio of late to early accuracy depends on the settings. So the regression is linear in
    the early accuracy and in its products with the positions of the settings. By its prior all runs improve by the mean
    ratio: with few runs, fitted coefficients alone could predict anything. The variance is that of a new run, noise of its
    scores included. Source: Bishop, "Pattern Recognition and Machine Learning", sections 3.3 and 3.5.2 (2006).
    """
    if len(finished) < MIN_FINISHED:
        return None
    early_N = np.array([score.accuracy for score, _ in finished])
    positions_ND = np.array([score.position for score, _ in finished])
    end_N = np.array([end for _, end in finished])
    num, early_mean, end_mean = len(end_N), float(early_N.mean()), float(end_N.mean())
    ratio = end_mean / early_mean if early_mean > 0 else 1.0

    # The features are centred, so that the intercept is the mean end, and scaled, so that coefficients have variance 1.
    def features(accuracies_N: Floats, offsets_ND: Floats) -> Floats:
        return ratio * np.column_stack([SLOPE_SD * accuracies_N, SPEED_SD * accuracies_N[:, None] * offsets_ND])

    middle_D = positions_ND.mean(axis=0)
    features_NF = features(early_N, positions_ND - middle_D)
    new_F = features(np.array([early.accuracy]), np.array([early.position]) - middle_D)[0] - features_NF.mean(axis=0)
    features_NF -= features_NF.mean(axis=0)
    rest_N = end_N - end_mean - ratio * (early_N - early_mean)
    guess = NOISE_RUNS * (NOISE_SD * end_mean) ** 2
    noise = float((rest_N @ rest_N + guess) / (num - 1 + NOISE_RUNS)) + 1e-6
    for _ in range(NUM_ITERATIONS):
        explained_FF = features_NF.T @ features_NF / noise
        covariance_FF = np.linalg.inv(np.eye(len(new_F)) + explained_FF)
        change_F = covariance_FF @ (features_NF.T @ rest_N) / noise
        num_free = max(1.0, num - 1 - float(np.trace(covariance_FF @ explained_FF)))
        residuals_N = rest_N - features_NF @ change_F
        noise = float((residuals_N @ residuals_N + guess) / (num_free + NOISE_RUNS)) + 1e-6
    mean = end_mean + ratio * (early.accuracy - early_mean) + float(new_F @ change_F)
    variance = noise * (1 + 1 / num) + float(new_F @ covariance_FF @ new_F)
    return min(1.0, max(0.0, mean)), variance
