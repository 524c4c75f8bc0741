"""A smooth surface through trials' noisy accuracies: where it is high, and how sure that is. It chooses no winner."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mathsft.config.schema import Choices, Scalar, SearchRange
from mathsft.records import Overrides

Floats = NDArray[np.float64]

NUM_CANDIDATES = 2048
SAME_SETTING = 0.01
"""Distance in the unit cube of the searched ranges within which two settings are one."""
LENGTH_SCALES = (0.15, 3.0)
"""Least and greatest share of a range over which accuracy changes: shorter scales would follow single trials."""
SEED_SDS = (0.005, 0.02)
"""Least and greatest standard deviation that the seed of a run may add: what differs by more is the surface's own."""


@dataclass(frozen=True)
class Observation:
    """A trial's accuracy at its settings; variance is what counting few problems adds to it, the seed's share excluded."""

    settings: Overrides
    accuracy: float
    variance: float


@dataclass(frozen=True)
class Surface:
    """The smoothed accuracy at some settings, in their order."""

    means: tuple[float, ...]
    """Posterior means."""
    sds: tuple[float, ...]
    """Posterior standard deviations, of the surface alone: the seed's is not in them."""


Posterior: TypeAlias = Callable[[Sequence[Overrides]], tuple[Floats, Floats]]
"""From settings to the surface's means and standard deviations there."""


def smooth(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> Surface:
    """Return the surface through the observations; the same observations in the same order give the same surface.

    It is a Gaussian process over the searched settings. Its kernel is a Matern 5/2 with a length of its own for each
    setting, plus white noise for the seed of a run; all are those of the highest marginal likelihood. Source: Rasmussen and
    Williams, "Gaussian Processes for Machine Learning", chapters 4 and 5 (2006).
    """
    return predict(space, observations, [observation.settings for observation in observations])


def predict(space: Mapping[str, SearchRange], observations: Sequence[Observation], settings: Sequence[Overrides]) -> Surface:
    """Return the surface of `smooth` at any settings in the space, in their order."""
    means, sds = _fit(space, observations)(settings)
    return Surface(tuple(means.tolist()), tuple(sds.tolist()))


def candidates(space: Mapping[str, SearchRange]) -> list[dict[str, Scalar]]:
    """Return settings that fill the space evenly, the same at every call."""
    from scipy.stats import qmc

    cube = qmc.Sobol(len(space), scramble=False).random(NUM_CANDIDATES).tolist()
    return [{name: _value(given, share) for (name, given), share in zip(space.items(), row, strict=True)} for row in cube]


def new_optimum(
    space: Mapping[str, SearchRange],
    observations: Sequence[Observation],
    boldness: float,
    pending: Sequence[Overrides] = (),
    tried: Sequence[Overrides] = (),
) -> dict[str, Scalar]:
    """Return the settings where the surface's mean plus `boldness` standard deviations is highest, and that nobody tried.

    Pending settings are observations whose accuracy is the surface's own mean there: they add no height, but they take away
    the uncertainty around them. Source: Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to parallelize
    optimization" (2010), the kriging believer. Where no candidate is new, the best of all is
    returned.
    """
    possible = candidates(space)
    means, sds = _fit(space, observations, pending)(possible)
    known = embed(space, [*(observation.settings for observation in observations), *pending, *tried])
    distances = np.linalg.norm(embed(space, possible)[:, None] - known[None], axis=2).min(axis=1)
    bounds = means + boldness * sds
    is_new = distances > SAME_SETTING
    return possible[int(np.argmax(np.where(is_new, bounds, -np.inf) if is_new.any() else bounds))]


def position(given: SearchRange, value: Scalar) -> float | None:
    """Return where a value lies in its range, 0 the low end and 1 the high end; None where choices have no order."""
    if isinstance(given, Choices) and not _are_numbers(given):
        return None
    return float(_positions(given, np.array([value], dtype=np.float64))[0])


def _fit(
    space: Mapping[str, SearchRange], observations: Sequence[Observation], pending: Sequence[Overrides] = ()
) -> Posterior:
    from sklearn.exceptions import ConvergenceWarning  # seconds to import: not at the start of every command
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    points = embed(space, [observation.settings for observation in observations])
    accuracies = np.array([observation.accuracy for observation in observations])
    variances = np.array([observation.variance for observation in observations])
    centre, scale = float(accuracies.mean()), float(accuracies.std()) or 1.0

    least, greatest = ((sd / scale) ** 2 for sd in SEED_SDS)
    lengths = Matern(np.full(points.shape[1], 0.5), LENGTH_SCALES, nu=2.5)
    kernel = ConstantKernel(1.0, (0.1, 10.0)) * lengths + WhiteKernel(math.sqrt(least * greatest), (least, greatest))
    process = GaussianProcessRegressor(kernel, alpha=np.maximum(variances / scale**2, 1e-9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that a bound was reached: this is what bounds are for
        process.fit(points, (accuracies - centre) / scale)
    seed_variance = process.kernel_.k2.noise_level
    if pending:
        more = embed(space, pending)
        alpha = np.append(process.alpha, np.full(len(more), 1e-9))
        values = np.append(process.y_train_, process.predict(more))
        process = GaussianProcessRegressor(process.kernel_, alpha=alpha, optimizer=None)
        process.fit(np.vstack([points, more]), values)

    def posterior(settings: Sequence[Overrides]) -> tuple[Floats, Floats]:
        means, sds = process.predict(embed(space, settings), return_std=True)
        return centre + scale * means, scale * np.sqrt(np.maximum(0.0, sds**2 - seed_variance))

    return posterior


def embed(space: Mapping[str, SearchRange], settings: Sequence[Overrides]) -> Floats:
    """Return settings as points (N x D) of the unit cube; choices without an order take a dimension each."""
    columns: list[Floats] = []
    for name, given in space.items():
        values = [chosen[name] for chosen in settings]
        if isinstance(given, Choices) and not _are_numbers(given):
            columns += [np.array([value == choice for value in values], dtype=np.float64) for choice in given.choices]
        else:
            columns.append(_positions(given, np.array(values, dtype=np.float64)))
    return np.column_stack(columns)


def _positions(given: SearchRange, values: Floats) -> Floats:
    """Return where values lie in a range of numbers or among choices that are numbers."""
    if isinstance(given, Choices):
        return np.interp(values, sorted(map(float, given.choices)), np.linspace(0, 1, len(given.choices)))
    low, high = float(given.low), float(given.high)
    if given.log:
        values, low, high = np.log(values), math.log(low), math.log(high)
    return (values - low) / (high - low)


def _value(given: SearchRange, share: float) -> Scalar:
    """Return the value at a share in [0, 1) of a range, the inverse of `position`."""
    if isinstance(given, Choices):
        return given.choices[int(share * len(given.choices))]
    low, high = float(given.low), float(given.high)
    at = low * (high / low) ** share if given.log else low + (high - low) * share
    return at if given.type == "float" else round(at)


def _are_numbers(given: Choices) -> bool:
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in given.choices)
