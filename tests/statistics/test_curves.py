"""The end of a run predicted from its beginning, against ordinary least squares and planted curves."""

import numpy as np
import pytest

from mathsft.statistics.curves import predict_end


def test_with_many_runs_it_is_ordinary_least_squares() -> None:
    rng = np.random.default_rng(0)
    early = rng.uniform(0.1, 0.4, 400)
    late = 0.1 + 1.2 * early + rng.normal(0, 0.02, 400)
    found = predict_end(0.2, list(zip(early, late, strict=True)))
    assert found is not None
    slope, intercept = np.polyfit(early, late, 1)
    residuals = late - intercept - slope * early
    # The textbook's variance of a new observation (Draper and Smith, "Applied Regression Analysis", section 1.4).
    spread = ((early - early.mean()) ** 2).sum()
    variance = residuals.var(ddof=2) * (1 + 1 / 400 + (0.2 - early.mean()) ** 2 / spread)
    assert found == (pytest.approx(intercept + slope * 0.2, abs=1e-3), pytest.approx(variance, rel=0.02))


def test_the_interval_holds_what_runs_reach() -> None:
    rng, num_inside = np.random.default_rng(1), 0
    for _ in range(500):
        early = rng.uniform(0.05, 0.4, 9)
        late = 0.05 + 1.1 * early + rng.normal(0, 0.03, 9)
        found = predict_end(float(early[0]), list(zip(early[1:], late[1:], strict=True)))
        assert found is not None
        num_inside += abs(found[0] - late[0]) < 1.96 * found[1] ** 0.5
    assert 0.88 < num_inside / 500 < 0.98


def test_a_run_far_below_the_others_is_scaled_like_them_and_less_sure() -> None:
    finished = [(0.20, 0.30), (0.22, 0.31), (0.21, 0.33), (0.19, 0.28)]
    near, far = predict_end(0.2, finished), predict_end(0.02, finished)
    assert near is not None and far is not None
    assert 0.0 <= far[0] < 0.12
    assert far[1] > near[1]


@pytest.mark.parametrize("finished", [[], [(0.1, 0.2)], [(0.1, 0.2), (0.2, 0.3)]])
def test_few_runs_predict_nothing(finished: list[tuple[float, float]]) -> None:
    assert predict_end(0.1, finished) is None


def test_runs_that_are_alike_or_at_zero_predict_themselves() -> None:
    assert predict_end(0.0, [(0.0, 0.0)] * 5) == (0.0, pytest.approx(0.0, abs=1e-5))
    found = predict_end(0.2, [(0.2, 0.3)] * 5)
    assert found is not None and found[0] == pytest.approx(0.3)
