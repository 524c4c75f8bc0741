"""How far a share that was counted may be from the true one. It compares nothing: two intervals are not a test."""

from dataclasses import dataclass


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
    from scipy.stats import binomtest  # two seconds to import: not at the start of every command

    found = binomtest(num_correct, num).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(float(found.low), float(found.high))
