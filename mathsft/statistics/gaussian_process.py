"""Gaussian process regression with a Matern 5/2 kernel: the fit of its parameters, and its predictions.

Matrices have tens of rows, so that a general library would spend most of the time outside of linear algebra. The tests
compare likelihood, gradient, fit and predictions with scikit-learn's.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Kernel:
    """The parameters of the covariance of two points x and z: height * matern(|(x - z) / lengths|), plus noise if x is z."""

    height: float
    lengths: tuple[float, ...]
    """One for each dimension of the points."""
    noise: float
    """Variance that each observation has in addition to its own."""

    def covariance(self, first_ND: Floats, second_MD: Floats) -> Floats:
        """Return the covariances (N x M) without noise."""
        return self.height * _matern(_distances(first_ND, second_MD, self.lengths))


@dataclass(frozen=True)
class GaussianProcess:
    """A process of mean 0 given observations of it."""

    kernel: Kernel
    points_ND: Floats
    values_N: Floats
    variances_N: Floats
    """The observations' own variances."""
    _lower_NN: Floats
    _weights_N: Floats

    def predict(self, points_MD: Floats) -> tuple[Floats, Floats]:
        """Return the posterior means and the standard deviations, without noise, at M points."""
        from scipy.linalg import solve_triangular

        covariance_MN = self.kernel.covariance(points_MD, self.points_ND)
        explained_NM = solve_triangular(self._lower_NN, covariance_MN.T, lower=True, check_finite=False)
        variances_M = self.kernel.height - np.einsum("nm,nm->m", explained_NM, explained_NM)
        return covariance_MN @ self._weights_N, np.sqrt(np.maximum(0.0, variances_M))

    def posterior_covariance(self, points_MD: Floats) -> Floats:
        """Return the covariances (M x M) of the process at M points, without noise."""
        from scipy.linalg import solve_triangular

        covariance_NM = self.kernel.covariance(self.points_ND, points_MD)
        explained_NM = solve_triangular(self._lower_NN, covariance_NM, lower=True, check_finite=False)
        covariance_MM: Floats = self.kernel.covariance(points_MD, points_MD) - explained_NM.T @ explained_NM
        return covariance_MM

    def believe(self, points_MD: Floats) -> "GaussianProcess":
        """Return the process that also has its own means at these points as observations without variance."""
        return given(
            self.kernel,
            np.vstack([self.points_ND, points_MD]),
            np.append(self.values_N, self.predict(points_MD)[0]),
            np.append(self.variances_N, np.zeros(len(points_MD))),
        )


def given(kernel: Kernel, points_ND: Floats, values_N: Floats, variances_N: Floats) -> GaussianProcess:
    """Return the process with this kernel and these observations."""
    from scipy.linalg import cho_solve, cholesky

    covariance_NN = kernel.covariance(points_ND, points_ND) + np.diag(variances_N + kernel.noise)
    lower_NN = cholesky(covariance_NN, lower=True, check_finite=False)
    weights_N = cho_solve((lower_NN, True), values_N, check_finite=False)
    return GaussianProcess(kernel, points_ND, values_N, variances_N, lower_NN, weights_N)


@lru_cache(maxsize=16)
def fit(
    points: tuple[tuple[float, ...], ...],
    values: tuple[float, ...],
    variances: tuple[float, ...],
    height: Bounds,
    length: Bounds,
    noise: Bounds,
) -> GaussianProcess:
    """Return the process whose kernel, within the bounds, maximises the marginal likelihood of the observations.

    Each step of a decision fits the same observations again, so that the last results are kept. The search (L-BFGS-B over
    the parameters' logarithms) starts at the middle of the bounds. Source: Rasmussen and Williams, "Gaussian Processes for
    Machine Learning", algorithm 2.1 and equation 5.9 (2006).
    """
    from scipy.optimize import minimize

    points_ND, values_N, variances_N = np.array(points), np.array(values), np.array(variances)
    bounds = np.log([height, *[length] * points_ND.shape[1], noise])
    squares_DNN = (points_ND.T[:, :, None] - points_ND.T[:, None, :]) ** 2
    found = minimize(
        negative_log_likelihood,
        bounds.mean(axis=1),
        (squares_DNN, values_N, variances_N),
        "L-BFGS-B",
        jac=True,
        bounds=bounds,
    )
    return given(_kernel(found.x), points_ND, values_N, variances_N)


def negative_log_likelihood(
    log_parameters: Floats, squares_DNN: Floats, values_N: Floats, variances_N: Floats
) -> tuple[float, Floats]:
    """Return minus the log marginal likelihood, and its gradient by the logarithms of height, lengths and noise.

    squares are the squared differences of each pair of points by dimension.
    """
    from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

    kernel = _kernel(log_parameters)
    scaled_DNN = squares_DNN / np.square(kernel.lengths)[:, None, None]
    distances_NN = np.sqrt(5 * scaled_DNN.sum(axis=0))
    covariance_NN = kernel.height * _matern(distances_NN)
    noisy_NN = covariance_NN + np.diag(variances_N + kernel.noise)
    lower_NN, failed = dpotrf(noisy_NN, lower=True)
    if failed:
        return math.inf, np.zeros_like(log_parameters)
    weights_N, _ = dpotrs(lower_NN, values_N, lower=True)
    half_NN, _ = dpotri(lower_NN, lower=True)
    inverse_NN = np.tril(half_NN) + np.tril(half_NN, -1).T
    log_determinant = 2 * np.log(np.diag(lower_NN)).sum()
    value = 0.5 * (values_N @ weights_N + log_determinant + len(values_N) * math.log(2 * math.pi))

    excess_NN = inverse_NN - np.outer(weights_N, weights_N)
    by_lengths_NN = kernel.height * 5 / 3 * (1 + distances_NN) * np.exp(-distances_NN) * excess_NN
    gradient = [
        (excess_NN * covariance_NN).sum(),
        *np.einsum("ij,dij->d", by_lengths_NN, scaled_DNN),
        kernel.noise * np.trace(excess_NN),
    ]
    return float(value), 0.5 * np.array(gradient)


def _kernel(log_parameters: Floats) -> Kernel:
    height, *lengths, noise = np.exp(log_parameters).tolist()
    return Kernel(height, tuple(lengths), noise)


def _distances(first_ND: Floats, second_MD: Floats, lengths: tuple[float, ...]) -> Floats:
    """Return sqrt(5) times the scaled distances (N x M)."""
    differences = (first_ND[:, None] - second_MD[None]) / lengths
    distances_NM: Floats = np.sqrt(5 * np.einsum("nmd,nmd->nm", differences, differences))
    return distances_NM


def _matern(distances: Floats) -> Floats:
    """Return the Matern 5/2 correlation at sqrt(5) times the scaled distances."""
    correlations: Floats = (1 + distances + distances**2 / 3) * np.exp(-distances)
    return correlations
