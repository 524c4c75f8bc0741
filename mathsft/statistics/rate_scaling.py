"""Fits how the best learning rate depends on a run's length, from runs at two lengths, and extrapolates to a longer run."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from mathsft.statistics.intervals import Interval, wilson

NUM_DRAWS = 4000
TAILS = (2.5, 97.5)
"""Percentiles of the draws at the ends of a bracket."""
SURE = 0.975
"""Least share of the draws in which the parabola must have a maximum, not a minimum."""


@dataclass(frozen=True)
class Tried:
    """The result of a run of num_examples at a learning rate."""

    learning_rate: float
    num_examples: int
    num_correct: int
    num_problems: int

    @property
    def interval(self) -> Interval:
        """Return the 95 % interval of the run's accuracy."""
        return wilson(self.num_correct, self.num_problems)


@dataclass(frozen=True)
class Bracket:
    """An estimate (middle) with the ends of its 95 % interval."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Horizon:
    """The extrapolation from runs at two lengths to a run of num_examples."""

    num_examples: int
    optima: tuple[tuple[int, Bracket], ...]
    """The best learning rate at each of the two lengths, the shorter first."""
    factor_per_doubling: Bracket
    """The factor by which the best learning rate changes when the length doubles."""
    learning_rate: Bracket
    """The best learning rate of a run of num_examples, extrapolated."""
    accuracy: Bracket
    """The accuracy of such a run at that rate, extrapolated along a straight line in logits."""

    @property
    def moves(self) -> bool:
        """Return whether the best learning rate depends on the length: whether the factor's interval excludes 1."""
        return not self.factor_per_doubling.low <= 1 <= self.factor_per_doubling.high


def fit_horizon(tried: Sequence[Tried], num_examples: int) -> Horizon | None:
    """Return the extrapolation to num_examples; None if the runs show no maximum within the tried rates at both lengths.

    The logit of the accuracy is modelled as a parabola in log learning rate. Both lengths share the curvature; each has its
    own height and position. The position is linear in log length, so that the best rate is a power of the length. Runs vary
    by their seeds beyond binomial noise, so the variance is scaled by Pearson's chi-squared. Intervals are percentiles of
    draws from the distribution of the estimates. Sources: Bjorck, Benhaim, Chaudhary, Wei and Song, "Scaling optimal LR
    across token horizons" (arXiv:2409.19913); Krinsky and Robb, "On approximating the statistical properties of
    elasticities", Review of Economics and Statistics 68 (1986). Raises ValueError unless there are runs of exactly two
    lengths.
    """
    import numpy as np
    import statsmodels.api as sm

    lengths = sorted({run.num_examples for run in tried})
    if len(lengths) != 2:
        raise ValueError(f"runs must have two lengths, but have {lengths}")
    if len(tried) < 6 or any(sum(run.num_correct for run in tried if run.num_examples == length) == 0 for length in lengths):
        return None
    rates_N = np.log2([run.learning_rate for run in tried])
    centre = float(rates_N.mean())
    x_N = rates_N - centre
    is_long_N = np.array([run.num_examples == lengths[1] for run in tried], dtype=float)
    design_N5 = np.column_stack([1 - is_long_N, is_long_N, (1 - is_long_N) * x_N, is_long_N * x_N, x_N**2])
    counts_N2 = np.array([(run.num_correct, run.num_problems - run.num_correct) for run in tried])
    fit = sm.GLM(counts_N2, design_N5, family=sm.families.Binomial()).fit()
    overdispersion = max(1.0, fit.pearson_chi2 / max(1, fit.df_resid))

    # K is the number of draws (in all_K5 the estimate comes first); 2 is the two lengths, the shorter first.
    generator = np.random.default_rng(0)
    draws_K5 = generator.multivariate_normal(fit.params, fit.cov_params() * overdispersion, NUM_DRAWS)
    is_hill_K = draws_K5[:, 4] < 0
    positions_2 = -fit.params[2:4] / (2 * fit.params[4])
    if fit.params[4] >= 0 or is_hill_K.mean() < SURE or positions_2.min() < x_N.min() or positions_2.max() > x_N.max():
        return None
    all_K5 = np.vstack([fit.params, draws_K5[is_hill_K]])
    positions_K2 = -all_K5[:, 2:4] / (2 * all_K5[:, 4:])
    heights_K2 = all_K5[:, :2] + all_K5[:, 2:4] * positions_K2 / 2
    doublings, ahead = log2(lengths[1] / lengths[0]), log2(num_examples / lengths[1])
    shift_K = (positions_K2[:, 1] - positions_K2[:, 0]) / doublings
    height_K = heights_K2[:, 1] + (heights_K2[:, 1] - heights_K2[:, 0]) / doublings * ahead

    def bracket(values_K: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Bracket:
        """Return the estimate, which is the first value, with percentiles of the draws, which follow it."""
        low, high = np.percentile(values_K[1:], TAILS)
        return Bracket(min(float(low), float(values_K[0])), float(values_K[0]), max(float(high), float(values_K[0])))

    return Horizon(
        num_examples=num_examples,
        optima=tuple((length, bracket(2 ** (centre + positions_K2[:, at]))) for at, length in enumerate(lengths)),
        factor_per_doubling=bracket(2**shift_K),
        learning_rate=bracket(2 ** (centre + positions_K2[:, 1] + shift_K * ahead)),
        accuracy=bracket(1 / (1 + np.exp(-height_K))),
    )
