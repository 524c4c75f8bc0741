"""Computes each searched setting's share of the effect on accuracy (first-order Sobol indices)."""

from collections.abc import Mapping, Sequence

import numpy as np

from mathsft.config.schema import SearchRange
from mathsft.statistics.surface import Observation, candidates, position, predict

NUM_BINS = 16
"""Number of bins of a numeric setting's range. Choices without an order are one bin each."""


def importance(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> dict[str, float]:
    """Return each setting's first-order share of the smoothed surface's variance over the space; all 0 if it is flat.

    The share is the variance, over the setting's values, of the accuracy averaged over all other settings, divided by the
    total variance. It excludes interactions, so that the shares add up to at most 1. Sources: Hutter, Hoos and Leyton-Brown,
    "An efficient approach for assessing hyperparameter importance", ICML (2014), here on the Gaussian process of `smooth`
    instead of a forest; Sobol, "Sensitivity estimates for nonlinear mathematical models" (1993).
    """
    points = candidates(space)
    means_N = np.array(predict(space, observations, points).means)
    total = float(means_N.var())
    shares = {}
    for name, given in space.items():
        has_value_N = np.array([name in point for point in points])  # it may apply to some of the settings only
        values, applying_M = [point[name] for point in points if name in point], means_N[has_value_N]
        positions = [position(given, value) for value in values]
        bins = [value if at is None else int(at * NUM_BINS) for value, at in zip(values, positions, strict=True)]
        groups = [applying_M[[index for index, other in enumerate(bins) if other == each]] for each in set(bins)]
        between = sum(len(group) * (group.mean() - applying_M.mean()) ** 2 for group in groups) / len(means_N)
        shares[name] = float(between) / total if total > 0 else 0.0
    return shares
