"""The Gaussian process against scikit-learn's."""

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from mathsft.statistics.gaussian_process import Floats, GaussianProcess, fit, negative_log_likelihood

HEIGHT, LENGTH, NOISE = (0.1, 10.0), (0.15, 3.0), (0.003, 0.05)


def drawn(seed: int, num: int = 20) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (num, 2))
    values = np.sin(4 * points[:, 0]) - (points[:, 1] - 0.4) ** 2 + rng.normal(0, 0.1, num)
    return points, values - values.mean(), rng.uniform(0.005, 0.02, num)


def fitted(points: Floats, values: Floats, variances: Floats) -> GaussianProcess:
    return fit(tuple(map(tuple, points.tolist())), tuple(values.tolist()), tuple(variances.tolist()), HEIGHT, LENGTH, NOISE)


def of_sklearn(points: Floats, values: Floats, variances: Floats) -> Any:
    start = np.sqrt([np.prod(bounds) for bounds in (HEIGHT, LENGTH, NOISE)])
    lengths = Matern(np.full(points.shape[1], start[1]), LENGTH, nu=2.5)
    kernel = ConstantKernel(start[0], HEIGHT) * lengths + WhiteKernel(start[2], NOISE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianProcessRegressor(kernel, alpha=variances).fit(points, values)


@pytest.mark.parametrize("seed", range(4))
def test_fit_and_predictions_are_those_of_scikit_learn(seed: int) -> None:
    given, places = drawn(seed), np.random.default_rng(9).uniform(0, 1, (50, 2))
    ours, theirs = fitted(*given), of_sklearn(*given)
    means, sds = ours.predict(places)
    expected_means, expected_sds = theirs.predict(places, return_std=True)
    assert means == pytest.approx(expected_means, abs=1e-6)
    assert np.hypot(sds, ours.kernel.noise**0.5) == pytest.approx(expected_sds, abs=1e-6)


def test_the_likelihood_is_that_of_scikit_learn_and_has_the_gradient_that_is_returned() -> None:
    points, values, variances = drawn(1)
    squares = (points.T[:, :, None] - points.T[:, None, :]) ** 2
    parameters = np.log([1.7, 0.3, 0.9, 0.01])
    theirs = of_sklearn(points, values, variances)
    value, gradient = negative_log_likelihood(parameters, squares, values, variances)
    assert value == pytest.approx(-theirs.log_marginal_likelihood(parameters), abs=1e-9)
    assert gradient == pytest.approx(-theirs.log_marginal_likelihood(parameters, eval_gradient=True)[1], abs=1e-8)
    error = check_grad(
        lambda at: negative_log_likelihood(at, squares, values, variances)[0],
        lambda at: negative_log_likelihood(at, squares, values, variances)[1],
        parameters,
    )
    assert error < 1e-4 * np.linalg.norm(gradient)


def test_believed_points_keep_the_mean_and_remove_the_uncertainty() -> None:
    process, place = fitted(*drawn(2)), np.array([[0.95, 0.05]])
    before, after = process.predict(place), process.believe(place).predict(place)
    assert after[0] == pytest.approx(before[0], abs=1e-9)
    assert after[1] < 0.5 * before[1]


def test_a_covariance_that_is_not_positive_has_no_likelihood() -> None:
    value, gradient = negative_log_likelihood(np.log([1.0, 1.0, 1e-20]), np.zeros((1, 3, 3)), np.zeros(3), np.full(3, -1.0))
    assert value == np.inf and not gradient.any()
