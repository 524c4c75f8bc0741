"""Computes each searched setting's share of the effect on accuracy (first-order Sobol indices), with its uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import SearchRange
from mathsft.statistics.gaussian_process import Floats
from mathsft.statistics.surface import Observation, candidates, draw, position, predict

NUM_BINS = 16
"""Number of bins of a numeric setting's range. Choices without an order are one bin each."""
NUM_POINTS, NUM_DRAWS, SEED = 512, 200, 0
"""Points and number of the random surfaces from which the intervals come."""


@dataclass(frozen=True)
class Importance:
    """One setting's share of the surface's variance, and the 95 % interval of this share."""

    share: float
    low: float
    high: float


def importance(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> dict[str, Importance]:
    """Return each setting's first-order share of the smoothed surface's variance over the space; all 0 if it is flat.

    The share is the variance, over the setting's values, of the accuracy averaged over all other settings, divided by the
    total variance. It excludes interactions, so that the shares add up to at most 1. The interval has the shares of the
    random surfaces that agree with the trials, without the lowest and the highest 2.5 %; it is extended to contain the share
    itself. Sources: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML
    (2014), here on the Gaussian process of `smooth` instead of a forest; Sobol, "Sensitivity estimates for nonlinear
    mathematical models" (1993); Oakley and O'Hagan, "Probabilistic sensitivity analysis of complex models" (2004), for the
    draws.
    """
    points = candidates(space)
    shares = _shares(space, points, np.array(predict(space, observations, points).means)[None])
    few = candidates(space, NUM_POINTS)
    drawn = _shares(space, few, draw(space, observations, few, NUM_DRAWS, SEED))
    found = {}
    for name in space:
        share = float(shares[name][0])
        low, high = np.quantile(drawn[name], (0.025, 0.975)).tolist()
        found[name] = Importance(share, min(low, share), max(high, share))
    return found


def _shares(
    space: Mapping[str, SearchRange], points: Sequence[Mapping[str, Scalar]], surfaces_SN: Floats
) -> dict[str, Floats]:
    """Return each setting's share of the variance of S surfaces at N points."""
    totals_S, shares = surfaces_SN.var(axis=1), {}
    for name, given in space.items():
        applying = [index for index, point in enumerate(points) if name in point]  # it may apply to some settings only
        values = [points[index][name] for index in applying]
        positions = [position(given, value) for value in values]
        bins = [value if at is None else int(at * NUM_BINS) for value, at in zip(values, positions, strict=True)]
        means_S, between_S = surfaces_SN[:, applying].mean(axis=1), np.zeros(len(surfaces_SN))
        for each in set(bins):
            group_SG = surfaces_SN[:, [index for index, other in zip(applying, bins, strict=True) if other == each]]
            between_S += group_SG.shape[1] * (group_SG.mean(axis=1) - means_S) ** 2 / len(points)
        shares[name] = np.divide(between_S, totals_S, out=np.zeros_like(between_S), where=totals_S > 0)
    return shares
