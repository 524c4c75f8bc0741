"""The end of a run predicted from its beginning, against ordinary least squares and planted curves."""

from collections.abc import Sequence

import numpy as np
import pytest

from mathsft.statistics.curves import EarlyScore, predict_end


def runs(early: Sequence[float], late: Sequence[float], at: Sequence[float] | None = None) -> list[tuple[EarlyScore, float]]:
    """Return finished runs of one searched setting; by default all have the same value of it."""
    positions = [0.5] * len(early) if at is None else at
    return [(EarlyScore(float(x), (float(p),)), float(y)) for x, y, p in zip(early, late, positions, strict=True)]


def predicted(accuracy: float, finished: list[tuple[EarlyScore, float]], at: float = 0.5) -> tuple[float, float]:
    found = predict_end(EarlyScore(accuracy, (at,)), finished)
    assert found is not None
    return found


def test_with_many_runs_it_is_ordinary_least_squares() -> None:
    rng = np.random.default_rng(0)
    early, at = rng.uniform(0.1, 0.4, 400), rng.uniform(0, 1, 400)
    late = 0.1 + 1.2 * early - 0.8 * early * (at - 0.5) + rng.normal(0, 0.02, 400)
    design = np.column_stack([np.ones(400), early, early * (at - at.mean())])
    found = predicted(0.2, runs(early, late, at), 0.7)
    new = np.array([1.0, 0.2, 0.2 * (0.7 - at.mean())])
    coefficients, squares, *_ = np.linalg.lstsq(design, late, rcond=None)
    # The textbook's variance of a new observation (Draper and Smith, "Applied Regression Analysis", section 1.4).
    variance = squares[0] / 397 * (1 + new @ np.linalg.solve(design.T @ design, new))
    assert found[0] == pytest.approx(new @ coefficients, abs=2e-3)
    assert found[1] == pytest.approx(variance, rel=0.1)


def test_runs_that_learn_late_are_predicted_higher_than_the_mean_ratio_says() -> None:
    """With a low rate (position 0) a run has a third of its end, with a high one two thirds."""
    rng = np.random.default_rng(2)
    at, late = rng.uniform(0, 1, 12), rng.uniform(0.2, 0.5, 12)
    finished = runs(late * (1 + at) / 3, late, at)
    slow, fast = predicted(0.1, finished, 0.1)[0], predicted(0.1, finished, 0.9)[0]
    assert slow == pytest.approx(0.1 * 3 / 1.1, rel=0.12)
    assert fast == pytest.approx(0.1 * 3 / 1.9, rel=0.12)


def test_the_interval_holds_what_runs_reach() -> None:
    rng, num_inside = np.random.default_rng(1), 0
    for _ in range(500):
        early, at = rng.uniform(0.05, 0.4, 9), rng.uniform(0, 1, 9)
        late = 0.05 + 1.1 * early - 0.6 * early * (at - 0.5) + rng.normal(0, 0.04, 9)
        mean, variance = predicted(float(early[0]), runs(early[1:], late[1:], at[1:]), float(at[0]))
        num_inside += abs(mean - late[0]) < 1.96 * variance**0.5
    assert 0.92 < num_inside / 500 < 0.98


def test_a_run_far_below_the_others_is_scaled_like_them_and_less_sure() -> None:
    finished = runs([0.20, 0.22, 0.21, 0.19], [0.30, 0.31, 0.33, 0.28])
    near, far = predicted(0.2, finished), predicted(0.02, finished)
    assert 0.0 <= far[0] < 0.12
    assert far[1] > near[1]


@pytest.mark.parametrize("num", [0, 1, 2])
def test_few_runs_predict_nothing(num: int) -> None:
    assert predict_end(EarlyScore(0.1, (0.5,)), runs([0.1] * num, [0.2] * num)) is None


def test_runs_that_are_alike_or_at_zero_predict_themselves() -> None:
    assert predicted(0.0, runs([0.0] * 5, [0.0] * 5)) == (0.0, pytest.approx(0.0, abs=1e-5))
    assert predicted(0.2, runs([0.2] * 5, [0.3] * 5))[0] == pytest.approx(0.3)
