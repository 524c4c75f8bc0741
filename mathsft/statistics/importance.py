"""How much of what the searched settings do to accuracy each of them does alone. It chooses nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from mathsft.config.schema import SearchRange
from mathsft.statistics.surface import Observation, candidates, position, predict

NUM_BINS = 16
"""Parts that a setting's range is cut into; choices are their own."""


def importance(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> dict[str, float]:
    """Return each setting's first-order share of the smoothed surface's variance over the space; all 0 where it is flat.

    The share is the variance of the accuracy's mean over all other settings. What settings do together is in none, so that
    the shares add up to 1 or less. Sources: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing
    hyperparameter importance", ICML (2014), here on the Gaussian process of `smooth` in place of a forest; Sobol,
    "Sensitivity estimates for nonlinear mathematical models" (1993).
    """
    settings = candidates(space)
    means_N = np.array(predict(space, observations, settings).means)
    total = float(means_N.var())
    shares = {}
    for name, given in space.items():
        places = [position(given, one[name]) for one in settings]
        bins = [one[name] if place is None else int(place * NUM_BINS) for one, place in zip(settings, places, strict=True)]
        parts = [means_N[[index for index, other in enumerate(bins) if other == part]] for part in set(bins)]
        between = sum(len(part) * (part.mean() - means_N.mean()) ** 2 for part in parts) / len(means_N)
        shares[name] = float(between) / total if total > 0 else 0.0
    return shares
