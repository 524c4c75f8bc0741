"""Fits a smooth surface (a Gaussian process) to the noisy accuracies of trials, and predicts and maximises it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mathsft.config.conditions import applicable
from mathsft.config.schema import Scalar
from mathsft.config.study_schema import Choices, SearchRange
from mathsft.records import Overrides
from mathsft.statistics.gaussian_process import Floats, GaussianProcess, fit

NUM_CANDIDATES = 2048
SAME_SETTING = 0.01
"""Distance in the unit cube of the searched ranges within which two settings are one."""
LENGTH_SCALES = (0.15, 3.0)
"""Bounds of the kernel's length scales, as shares of a setting's range: shorter scales would follow single trials."""
HEIGHTS = (0.1, 10.0)
"""Bounds of the surface's variance, as shares of the variance of the accuracies."""
JITTER = 1e-5
"""Added to the variances of drawn surfaces, as a share of the accuracies' variance, since rounding makes some negative."""
SEED_SDS = (0.005, 0.02)
"""Bounds of the standard deviation that a run's seed adds; larger differences are attributed to the settings."""
LEAST_VARIANCE = 1e-9
"""Of an observation, as a share of the variance of the accuracies: keeps the covariance matrix regular."""


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


if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

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
    points_ND = embed(space, settings)
    means_N, _ = process.predict(points_ND)
    covariance_NN = process.posterior_covariance(points_ND) + JITTER * np.eye(len(points_ND))
    normal = np.random.default_rng(seed).standard_normal((num_draws, len(points_ND)))
    with _linear_algebra().limit(limits=1):
        drawn: Floats = centre + scale * (means_N + normal @ np.linalg.cholesky(covariance_NN).T)
    return drawn


def candidates(space: Mapping[str, SearchRange], num: int = NUM_CANDIDATES) -> list[dict[str, Scalar]]:
    """Return settings that fill the space evenly (a Sobol sequence); they are the same in every call."""
    return [dict(settings) for settings in _candidates(tuple(space.items()), num)]


@lru_cache(maxsize=8)
def _candidates(space: tuple[tuple[str, SearchRange], ...], num: int) -> list[dict[str, Scalar]]:
    from scipy.stats import qmc

    cube = qmc.Sobol(len(space), scramble=False).random(num).tolist()
    all_values = ({name: _value(given, share) for (name, given), share in zip(space, row, strict=True)} for row in cube)
    return [applicable(values) for values in all_values]


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


def _fit(
    space: Mapping[str, SearchRange], observations: Sequence[Observation], pending: Sequence[Overrides] = ()
) -> Posterior:
    process, centre, scale = _process(space, observations)
    if pending:
        with _linear_algebra().limit(limits=1):
            process = process.believe(embed(space, pending))

    def posterior(settings: Sequence[Overrides]) -> tuple[Floats, Floats]:
        means, sds = process.predict(embed(space, settings))
        return centre + scale * means, scale * sds

    return posterior


def _process(space: Mapping[str, SearchRange], observations: Sequence[Observation]) -> tuple[GaussianProcess, float, float]:
    """Return the fitted process of the scaled accuracies, and the centre and the scale of the accuracies."""
    accuracies = np.array([observation.accuracy for observation in observations])
    variances = np.array([observation.variance for observation in observations])
    centre, scale = float(accuracies.mean()), float(accuracies.std()) or 1.0
    # Matrices are small: more threads than one only disturb the workers on this machine's cores.
    with _linear_algebra().limit(limits=1):
        process = fit(
            tuple(map(tuple, embed(space, [observation.settings for observation in observations]).tolist())),
            tuple(((accuracies - centre) / scale).tolist()),
            tuple(np.maximum(variances / scale**2, LEAST_VARIANCE).tolist()),
            height=HEIGHTS,
            length=LENGTH_SCALES,
            noise=((SEED_SDS[0] / scale) ** 2, (SEED_SDS[1] / scale) ** 2),
        )
    return process, centre, scale


@lru_cache
def _linear_algebra() -> "ThreadpoolController":
    """Return the control over the threads of the linear algebra libraries; to find them takes as long as a fit."""
    import scipy.linalg  # loads them  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def embed(space: Mapping[str, SearchRange], settings: Sequence[Overrides]) -> Floats:
    """Return settings as points (N x D) of the unit cube; each choice without an order has its own dimension.

    A setting that does not apply to a trial, as the rank to full fine-tuning, is in the middle of its dimension: the trials
    to which it applies are equally far away on average, and their other settings decide.
    """
    columns: list[Floats] = []
    for name, given in space.items():
        values = [chosen.get(name) for chosen in settings]
        if isinstance(given, Choices) and not _are_numbers(given):
            columns += [np.array([value == choice for value in values], dtype=np.float64) for choice in given.choices]
        else:
            numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
            columns.append(np.nan_to_num(_positions(given, numbers), nan=0.5))
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
