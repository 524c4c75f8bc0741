"""A smooth surface through trials' noisy accuracies: where it is high, and how sure that is. It chooses no winner."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mathsft.config.schema import Choices, Scalar, SearchRange
from mathsft.records import Overrides

Floats = NDArray[np.float64]

NUM_CANDIDATES = 2048
LENGTH_SCALES = (0.15, 3.0)
"""Least and greatest share of a range over which accuracy changes: shorter scales would follow single trials."""


@dataclass(frozen=True)
class Observation:
    """A trial's accuracy at its settings; variance is what counting few problems adds to it, the seed's share excluded."""

    settings: Overrides
    accuracy: float
    variance: float


@dataclass(frozen=True)
class Surface:
    """The smoothed accuracy."""

    means: tuple[float, ...]
    """Posterior means at the observations, in their order."""
    sds: tuple[float, ...]
    """Posterior standard deviations there."""
    optimum: dict[str, Scalar]
    """Settings in the searched space where the posterior mean, plus boldness standard deviations, is highest."""


def smooth(space: Mapping[str, SearchRange], observations: Sequence[Observation], boldness: float = 0.0) -> Surface:
    """Fit a Gaussian process to the observations over the searched settings; the same observations give the same surface.

    Its kernel is a Matern 5/2 with a length of its own for each setting, plus white noise for the seed of a run; all are
    those of the highest marginal likelihood. Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning",
    chapters 4 and 5 (2006).
    """
    settings = [dict(observation.settings) for observation in observations]
    points = _embed(space, settings)
    accuracies = np.array([observation.accuracy for observation in observations])
    variances = np.array([observation.variance for observation in observations])
    centre, scale = float(accuracies.mean()), float(accuracies.std()) or 1.0
    posterior = _fit(points, (accuracies - centre) / scale, variances / scale**2)
    means, sds = posterior(points)
    candidates = settings + _candidates(space)
    candidate_means, candidate_sds = posterior(_embed(space, candidates))
    return Surface(
        means=tuple((centre + scale * means).tolist()),
        sds=tuple((scale * sds).tolist()),
        optimum=candidates[int(np.argmax(candidate_means + boldness * candidate_sds))],
    )


def position(given: SearchRange, value: Scalar) -> float | None:
    """Return where a value lies in its range, 0 the low end and 1 the high end; None where choices have no order."""
    if isinstance(given, Choices):
        if not _are_numbers(given):
            return None
        return float(np.interp(float(value), sorted(map(float, given.choices)), np.linspace(0, 1, len(given.choices))))
    at, low, high = float(value), float(given.low), float(given.high)
    if given.log:
        at, low, high = np.log(at), np.log(low), np.log(high)
    return float((at - low) / (high - low))


def _fit(points: Floats, values: Floats, variances: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Return the function from points to the posterior means and standard deviations, given standardised values."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor  # seconds to import: not at the start of every command
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths = Matern(np.full(points.shape[1], 0.5), LENGTH_SCALES, nu=2.5)
    kernel = ConstantKernel(1.0, (0.1, 10.0)) * lengths + WhiteKernel(0.05, (1e-5, 1.0))
    process = GaussianProcessRegressor(kernel, alpha=np.maximum(variances, 1e-9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that a bound was reached: this is what bounds are for
        process.fit(points, values)

    def posterior(at: Floats) -> tuple[Floats, Floats]:
        means, sds = process.predict(at, return_std=True)
        return means, np.sqrt(np.maximum(0.0, sds**2 - process.kernel_.k2.noise_level))  # the surface's alone, no seed's

    return posterior


def _embed(space: Mapping[str, SearchRange], settings: Sequence[Overrides]) -> Floats:
    """Return settings as points (N x D) of the unit cube; choices without an order take a dimension each."""
    columns: list[list[float]] = []
    for name, given in space.items():
        values = [chosen[name] for chosen in settings]
        if isinstance(given, Choices) and not _are_numbers(given):
            columns += [[float(value == choice) for value in values] for choice in given.choices]
        else:
            columns.append([position(given, value) or 0.0 for value in values])
    return np.array(columns, dtype=np.float64).T


def _candidates(space: Mapping[str, SearchRange]) -> list[dict[str, Scalar]]:
    """Return settings that fill the space evenly."""
    from scipy.stats import qmc

    cube = qmc.Sobol(len(space), scramble=False).random(NUM_CANDIDATES).tolist()
    return [{name: _value(given, share) for (name, given), share in zip(space.items(), row, strict=True)} for row in cube]


def _value(given: SearchRange, share: float) -> Scalar:
    """Return the value at a share in [0, 1) of a range, the inverse of `position`."""
    if isinstance(given, Choices):
        return given.choices[int(share * len(given.choices))]
    low, high = float(given.low), float(given.high)
    at = low * (high / low) ** share if given.log else low + (high - low) * share
    return at if given.type == "float" else round(at)


def _are_numbers(given: Choices) -> bool:
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in given.choices)
