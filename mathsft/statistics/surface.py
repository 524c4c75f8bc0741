"""Fits a smooth surface (a Gaussian process) to the noisy accuracies of trials, and predicts and maximises it."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mathsft.config.schema import Choices, Scalar, SearchRange
from mathsft.records import Overrides

Floats = NDArray[np.float64]

NUM_CANDIDATES = 2048
SAME_SETTING = 0.01
"""Distance in the unit cube of the searched ranges within which two settings are one."""
LENGTH_SCALES = (0.15, 3.0)
"""Bounds of the kernel's length scales, as shares of a setting's range: shorter scales would follow single trials."""
JITTER = 1e-5
"""Added to the variances of drawn surfaces, as a share of the accuracies' variance, since rounding makes some negative."""
SEED_SDS = (0.005, 0.02)
"""Bounds of the standard deviation that a run's seed adds; larger differences are attributed to the settings."""


@dataclass(frozen=True)
class Observation:
    """A trial's accuracy at its settings; variance is that of the finite number of problems, without the seed's."""

    settings: Overrides
    accuracy: float
    variance: float


@dataclass(frozen=True)
class Surface:
    """The smoothed accuracies at a sequence of settings, in the same order."""

    means: tuple[float, ...]
    """Posterior means."""
    sds: tuple[float, ...]
    """Posterior standard deviations of the surface, without the seed's."""


Posterior: TypeAlias = Callable[[Sequence[Overrides]], tuple[Floats, Floats]]
"""Settings -> means and standard deviations of the surface at these settings."""


def smooth(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> Surface:
    """Return the surface at the observed settings; the same observations in the same order give the same surface.

    It is a Gaussian process over the searched settings. Its kernel is a Matern 5/2 with one length scale per setting, plus
    white noise for the seed of a run; the parameters maximise the marginal likelihood. Source: Rasmussen and Williams,
    "Gaussian Processes for Machine Learning", chapters 4 and 5 (2006).
    """
    return predict(space, observations, [observation.settings for observation in observations])


def predict(space: Mapping[str, SearchRange], observations: Sequence[Observation], settings: Sequence[Overrides]) -> Surface:
    """Return the surface of `smooth` at other settings in the space, in the same order."""
    means, sds = _fit(space, observations)(settings)
    return Surface(tuple(means.tolist()), tuple(sds.tolist()))


def draw(
    space: Mapping[str, SearchRange],
    observations: Sequence[Observation],
    settings: Sequence[Overrides],
    num_draws: int,
    seed: int,
) -> Floats:
    """Return random surfaces (num_draws x N) that agree with the observations, at N settings; the same seed gives the same.

    They are draws from the posterior of `smooth`, with its fitted parameters held fixed.
    """
    process, centre, scale = _process(space, observations)
    means_N, covariances_NN = process.predict(embed(space, settings), return_cov=True)
    covariances_NN[np.diag_indices(len(means_N))] -= process.kernel_.k2.noise_level
    covariances_NN[np.diag_indices(len(means_N))] += JITTER
    normal = np.random.default_rng(seed).standard_normal((num_draws, len(means_N)))
    drawn: Floats = centre + scale * (means_N + normal @ np.linalg.cholesky(covariances_NN).T)
    return drawn


def candidates(space: Mapping[str, SearchRange], num: int = NUM_CANDIDATES) -> list[dict[str, Scalar]]:
    """Return settings that fill the space evenly (a Sobol sequence); they are the same in every call."""
    from scipy.stats import qmc

    cube = qmc.Sobol(len(space), scramble=False).random(num).tolist()
    return [{name: _value(given, share) for (name, given), share in zip(space.items(), row, strict=True)} for row in cube]


def new_optimum(
    space: Mapping[str, SearchRange],
    observations: Sequence[Observation],
    boldness: float,
    pending: Sequence[Overrides] = (),
    tried: Sequence[Overrides] = (),
) -> dict[str, Scalar]:
    """Return the settings with the highest mean plus `boldness` standard deviations, among those that are not tried yet.

    Pending settings are observations whose accuracy is the surface's own mean there: they add no height, but they take away
    the uncertainty around them. If no candidate is new, the best of all is returned. Source: Ginsbourger, Le Riche and
    Carraro, "Kriging is well-suited to parallelize optimization" (2010), the kriging believer.
    """
    possible = candidates(space)
    means, sds = _fit(space, observations, pending)(possible)
    known = embed(space, [*(observation.settings for observation in observations), *pending, *tried])
    distances = np.linalg.norm(embed(space, possible)[:, None] - known[None], axis=2).min(axis=1)
    bounds = means + boldness * sds
    is_new = distances > SAME_SETTING
    return possible[int(np.argmax(np.where(is_new, bounds, -np.inf) if is_new.any() else bounds))]


def position(given: SearchRange, value: Scalar) -> float | None:
    """Return the position of a value in its range, from 0 (low) to 1 (high); None for choices without an order."""
    if isinstance(given, Choices) and not _are_numbers(given):
        return None
    return float(_positions(given, np.array([value], dtype=np.float64))[0])


def _process(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> tuple[Any, float, float]:
    """Return the fitted Gaussian process of the scaled accuracies, and the centre and scale of the accuracies."""
    from sklearn.exceptions import ConvergenceWarning  # takes seconds, which other commands do not need
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from threadpoolctl import threadpool_limits

    points = embed(space, [observation.settings for observation in observations])
    accuracies = np.array([observation.accuracy for observation in observations])
    variances = np.array([observation.variance for observation in observations])
    centre, scale = float(accuracies.mean()), float(accuracies.std()) or 1.0

    least, greatest = ((sd / scale) ** 2 for sd in SEED_SDS)
    lengths = Matern(np.full(points.shape[1], 0.5), LENGTH_SCALES, nu=2.5)
    kernel = ConstantKernel(1.0, (0.1, 10.0)) * lengths + WhiteKernel(math.sqrt(least * greatest), (least, greatest))
    process = GaussianProcessRegressor(kernel, alpha=np.maximum(variances / scale**2, 1e-9))
    # Matrices are small: more threads than one only disturb the workers on this machine's cores.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter reached its bound
        process.fit(points, (accuracies - centre) / scale)
    return process, centre, scale


def _fit(
    space: Mapping[str, SearchRange], observations: Sequence[Observation], pending: Sequence[Overrides] = ()
) -> Posterior:
    process, centre, scale = _process(space, observations)
    seed_variance = process.kernel_.k2.noise_level
    if pending:
        from sklearn.gaussian_process import GaussianProcessRegressor

        points, more = embed(space, [observation.settings for observation in observations]), embed(space, pending)
        alpha = np.append(process.alpha, np.full(len(more), 1e-9))
        values = np.append(process.y_train_, process.predict(more))
        process = GaussianProcessRegressor(process.kernel_, alpha=alpha, optimizer=None)
        process.fit(np.vstack([points, more]), values)

    def posterior(settings: Sequence[Overrides]) -> tuple[Floats, Floats]:
        means, sds = process.predict(embed(space, settings), return_std=True)
        return centre + scale * means, scale * np.sqrt(np.maximum(0.0, sds**2 - seed_variance))

    return posterior


def embed(space: Mapping[str, SearchRange], settings: Sequence[Overrides]) -> Floats:
    """Return settings as points (N x D) of the unit cube; each choice without an order has its own dimension."""
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
    """Return the value at a position in [0, 1) of a range, the inverse of `position`."""
    if isinstance(given, Choices):
        return given.choices[int(share * len(given.choices))]
    low, high = float(given.low), float(given.high)
    at = low * (high / low) ** share if given.log else low + (high - low) * share
    return at if given.type == "float" else round(at)


def _are_numbers(given: Choices) -> bool:
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in given.choices)
