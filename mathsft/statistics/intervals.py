"""Computes confidence intervals of shares, and of the difference of two shares on different problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval of a share; both ends lie in [0, 1]."""

    low: float
    high: float


def wilson(num_correct: int, num: int) -> Interval:
    """Return Wilson's 95 % score interval, without continuity correction, of num_correct / num.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); recommended by
    Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16 (2001). Raises
    ValueError unless 0 <= num_correct <= num and num >= 1.
    """
    from scipy.stats import binomtest  # takes two seconds, which commands without statistics do not need

    interval = binomtest(num_correct, num).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def clustered(num_correct: Sequence[int], num_samples: int) -> Interval:
    """Return a 95 % interval of the accuracy; num_correct holds each problem's number of correct responses of num_samples.

    Responses to the same problem are correlated, so this is Wilson's interval for the effective number of responses,
    num_responses / design effect. Source: Saha, Miller and Wang, "A comparison of some approximate confidence intervals for
    a single proportion for clustered binary outcome data", International Journal of Biostatistics 12 (2016). The plain
    estimate of the design effect is far too low if few problems are ever solved, or few ever missed. For this estimate only,
    we therefore add half a problem that is always solved and half a problem that never is. With one response per problem,
    the result is Wilson's interval.

    Raises ValueError without problems or if a count is not in [0, num_samples].
    """
    if not num_correct or not all(0 <= count <= num_samples for count in num_correct) or num_samples < 1:
        raise ValueError(f"num_correct: one count in [0, num_samples = {num_samples}] for each of at least one problem")
    if num_samples == 1:
        return wilson(sum(num_correct), len(num_correct))
    from statsmodels.stats.proportion import proportion_confint

    shares = [count / num_samples for count in num_correct]
    num_effective = effective_number(shares, num_samples)
    low, high = proportion_confint(fmean(shares) * num_effective, num_effective, alpha=0.05, method="wilson")
    return Interval(float(low), float(high))


def effective_number(shares: Sequence[float], num_samples: int) -> float:
    """Return the effective number of independent responses (see `clustered`), given each problem's share correct."""
    if num_samples == 1:
        return len(shares)
    import numpy as np

    num_problems = len(shares)
    padded_shares, weights = np.append(shares, [0.0, 1.0]), np.append(np.ones(num_problems), [0.5, 0.5])
    center = np.average(padded_shares, weights=weights)
    variance_between_problems = weights @ (padded_shares - center) ** 2 / num_problems  # the sum of weights minus 1
    return float(
        np.clip(num_problems * center * (1 - center) / variance_between_problems, num_problems, num_problems * num_samples)
    )


def unpaired_difference(first_correct: int, first_num: int, second_correct: int, second_num: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval of the second share minus the first, for shares on different problems.

    Source: Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven methods",
    Statistics in Medicine 17 (1998), method 10.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(second_correct, second_num, first_correct, first_num, method="newcomb")
    return float(low), float(high)
