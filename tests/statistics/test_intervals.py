import numpy as np
import pytest
from scipy.stats import binom

from mathsft.statistics.intervals import clustered, unpaired_difference, wilson


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


@pytest.mark.parametrize("num_problems", [20, 50, 200])
@pytest.mark.parametrize("accuracy", [0.02, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("correlation", [0.1, 0.7])
def test_clustered_covers_with_few_problems_and_near_the_ends(
    num_problems: int, accuracy: float, correlation: float
) -> None:
    """Problems' chances are beta distributed around the accuracy; correlation is that of two responses to one problem."""
    rng = np.random.default_rng(7)
    spread = (1 - correlation) / correlation
    chances = rng.beta(accuracy * spread, (1 - accuracy) * spread, size=(400, num_problems))
    intervals = [clustered(num_correct, 8) for num_correct in rng.binomial(8, chances).tolist()]
    coverage = np.mean([interval.low <= accuracy <= interval.high for interval in intervals])
    assert coverage > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)


def test_clustered_lies_between_one_and_all_responses_per_problem() -> None:
    one_each = wilson(60, 200)
    assert clustered([1] * 60 + [0] * 140, 1) == one_each
    same_responses = clustered([8] * 60 + [0] * 140, 8)
    assert (same_responses.low, same_responses.high) == pytest.approx((one_each.low, one_each.high))
    independent = clustered(np.random.default_rng(0).binomial(8, 0.3, size=200).tolist(), 8)
    assert 0.044 < independent.high - independent.low < 0.052  # Wilson's for 480 of 1,600 responses is 0.0449 wide


@pytest.mark.parametrize(("num_correct", "num_samples"), [([], 4), ([5], 4), ([-1], 4), ([0], 0)])
def test_clustered_refuses_counts_that_cannot_be(num_correct: list[int], num_samples: int) -> None:
    with pytest.raises(ValueError, match="num_correct"):
        clustered(num_correct, num_samples)


def test_the_difference_of_two_pools_is_newcombes() -> None:
    # Newcombe (1998), table II: 56 of 70 against 48 of 80, method 10: 0.0524 to 0.3339.
    low, high = unpaired_difference(48, 80, 56, 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
