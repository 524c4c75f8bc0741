import numpy as np
import pytest
from scipy.stats import binom

from mathsft.statistics.intervals import wilson


@pytest.mark.parametrize(
    ("num_correct", "num", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_agrees_with_the_published_table(num_correct: int, num: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I."""
    interval = wilson(num_correct, num)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("num", [50, 200])
def test_covers_the_true_share_about_as_often_as_it_says(num: int) -> None:
    intervals = [wilson(num_correct, num) for num_correct in range(num + 1)]
    lows, highs = (np.array([getattr(interval, end) for interval in intervals]) for end in ("low", "high"))
    shares = np.linspace(0.02, 0.98, 97)
    covered = (lows[:, None] <= shares) & (shares <= highs[:, None])
    coverage = (binom.pmf(np.arange(num + 1)[:, None], num, shares) * covered).sum(axis=0)
    assert 0.945 < coverage.mean() < 0.96
    assert coverage.min() > 0.90


def test_refuses_counts_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="k"):
        wilson(21, 20)
