"""Predicts the accuracy at the end of a run from its accuracy at an earlier eval point, by regression on finished runs."""

from collections.abc import Sequence
from statistics import fmean

MIN_FINISHED = 3
"""Fewer finished runs do not show how much runs differ."""
SLOPE_SD = 0.5
"""Prior standard deviation of the regression's slope, in units of the mean ratio of late to early accuracy."""


def predict_end(early: float, finished: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return the mean and the variance of the accuracy at the end; None with fewer than three finished runs.

    `finished` has the accuracy of each finished run at the same eval point and at its end. The prior of the line is that all
    runs improve by the mean ratio of late to early accuracy: with few runs, or far from them, a fitted slope alone could
    predict anything. The variance is that of a new run, noise of its scores included. Source: Bishop, "Pattern Recognition
    and Machine Learning", section 3.3 (2006), with the noise variance estimated from the residuals.
    """
    if len(finished) < MIN_FINISHED:
        return None
    centre, level = fmean(x for x, _ in finished), fmean(y for _, y in finished)
    ratio = level / centre if centre > 0 else 1.0
    # The line is level + (ratio + change) * (x - centre); `change` is what the regression adds to the ratio.
    offsets = [(x - centre, y - level - ratio * (x - centre)) for x, y in finished]
    spread = sum(x * x for x, _ in offsets)
    prior_precision = 1 / max(SLOPE_SD * ratio, 1e-6) ** 2
    noise = sum(rest * rest for _, rest in offsets) / (len(offsets) - 1) + 1e-6
    precision = prior_precision + spread / noise
    change = sum(x * rest for x, rest in offsets) / noise / precision
    noise = sum((rest - change * x) ** 2 for x, rest in offsets) / (len(offsets) - 1) + 1e-6
    distance = early - centre
    mean = level + (ratio + change) * distance
    variance = noise * (1 + 1 / len(offsets)) + distance**2 / precision
    return min(1.0, max(0.0, mean)), variance
