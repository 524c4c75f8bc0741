"""How the best learning rate moves with a run's length, from runs at two lengths, and where it may lie for a longer one.

Nothing is chosen here: the answer is a bracket, and whether the data resolve it at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from mathsft.statistics.intervals import Interval, wilson

NUM_DRAWS = 4000
TAILS = (2.5, 97.5)
"""Percentiles between which a bracket lies."""
SURE = 0.975
"""Share of the draws in which the accuracy must have a highest point between the rates tried, not a lowest one."""


@dataclass(frozen=True)
class Tried:
    """How a run of this many examples at this learning rate did."""

    learning_rate: float
    num_examples: int
    num_correct: int
    num_problems: int

    @property
    def interval(self) -> Interval:
        """Return the 95 % interval of its accuracy."""
        return wilson(self.num_correct, self.num_problems)


@dataclass(frozen=True)
class Bracket:
    """An estimate with the ends of its 95 % interval."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Horizon:
    """What runs at two lengths say of a run of num_examples."""

    num_examples: int
    optima: tuple[tuple[int, Bracket], ...]
    """The best learning rate at each length, the shorter first."""
    factor_per_doubling: Bracket
    """By what the best learning rate is multiplied when the length doubles."""
    learning_rate: Bracket
    """The best one for a run of num_examples, extrapolated."""
    accuracy: Bracket
    """Of such a run, extrapolated: two lengths make a line, and no more is known of its shape."""

    @property
    def moves(self) -> bool:
        """Return whether the best learning rate depends on the length: whether the interval of the factor leaves out 1."""
        return not self.factor_per_doubling.low <= 1 <= self.factor_per_doubling.high


def fit_horizon(tried: Sequence[Tried], num_examples: int) -> Horizon | None:
    """Return what the runs say of one of num_examples; None where they show no highest point at both of their two lengths.

    The logit of the accuracy is a parabola in log learning rate, with one curvature and for each length a height and a
    place of its own; the place moves linearly in log length, so that the best rate is a power of the length. Runs differ by
    more than the binomial's noise, by their seeds: its variance is scaled by Pearson's chi-squared. Intervals are those of
    draws from the estimates' distribution. Sources: Bjorck, Benhaim, Chaudhary, Wei and Song, "Scaling optimal LR across
    token horizons" (arXiv:2409.19913); Krinsky and Robb, "On approximating the statistical properties of elasticities",
    Review of Economics and Statistics 68 (1986). Raises ValueError unless there are runs of exactly two lengths.
    """
    import numpy as np
    import statsmodels.api as sm

    lengths = sorted({one.num_examples for one in tried})
    if len(lengths) != 2:
        raise ValueError(f"runs must have two lengths, but have {lengths}")
    if len(tried) < 6 or any(sum(one.num_correct for one in tried if one.num_examples == each) == 0 for each in lengths):
        return None
    rates_N = np.log2([one.learning_rate for one in tried])
    centre = float(rates_N.mean())
    x_N = rates_N - centre
    is_long_N = np.array([one.num_examples == lengths[1] for one in tried], dtype=float)
    design_N5 = np.column_stack([1 - is_long_N, is_long_N, (1 - is_long_N) * x_N, is_long_N * x_N, x_N**2])
    counts_N2 = np.array([(one.num_correct, one.num_problems - one.num_correct) for one in tried])
    fit = sm.GLM(counts_N2, design_N5, family=sm.families.Binomial()).fit()
    overdispersion = max(1.0, fit.pearson_chi2 / max(1, fit.df_resid))

    # Shape of the draws: K x 2 for what each length has of its own, the shorter first.
    generator = np.random.default_rng(0)
    draws_K5 = generator.multivariate_normal(fit.params, fit.cov_params() * overdispersion, NUM_DRAWS)
    is_hill_K = draws_K5[:, 4] < 0
    place_2 = -fit.params[2:4] / (2 * fit.params[4])
    if fit.params[4] >= 0 or is_hill_K.mean() < SURE or place_2.min() < x_N.min() or place_2.max() > x_N.max():
        return None
    all_K5 = np.vstack([fit.params, draws_K5[is_hill_K]])
    places_K2 = -all_K5[:, 2:4] / (2 * all_K5[:, 4:])
    tops_K2 = all_K5[:, :2] + all_K5[:, 2:4] * places_K2 / 2
    doublings, ahead = log2(lengths[1] / lengths[0]), log2(num_examples / lengths[1])
    shift_K = (places_K2[:, 1] - places_K2[:, 0]) / doublings
    top_K = tops_K2[:, 1] + (tops_K2[:, 1] - tops_K2[:, 0]) / doublings * ahead

    def bracket(values_K: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Bracket:
        """Return the estimate, which comes first, with the percentiles of the draws."""
        low, high = np.percentile(values_K[1:], TAILS)
        return Bracket(min(float(low), float(values_K[0])), float(values_K[0]), max(float(high), float(values_K[0])))

    return Horizon(
        num_examples=num_examples,
        optima=tuple((length, bracket(2 ** (centre + places_K2[:, at]))) for at, length in enumerate(lengths)),
        factor_per_doubling=bracket(2**shift_K),
        learning_rate=bracket(2 ** (centre + places_K2[:, 1] + shift_K * ahead)),
        accuracy=bracket(1 / (1 + np.exp(-top_K))),
    )
