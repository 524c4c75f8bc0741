"""Compares checkpoints by their results on the same problems (paired comparison)."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class PairedDifference:
    """The comparison of a second checkpoint with a first one on the same problems."""

    num_problems: int
    num_gained: int
    """Problems with a higher share of correct responses from the second checkpoint."""
    num_lost: int
    """Problems with a higher share of correct responses from the first checkpoint."""
    difference: float
    """Accuracy of the second minus that of the first."""
    low: float
    """Lower end of the 95 % confidence interval of the difference."""
    high: float
    p_value: float
    """Two-sided p-value of McNemar's exact test; valid for a number of problems that was fixed in advance."""
    e_value: float
    """Evidence that the second is better; 20 is significant at 5 %, even if it is computed again as problems are added."""


def compare(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Return the second checkpoint's gain over the first; element i of each is the share of correct responses to problem i.

    With one response per problem, shares are 0 or 1, and the interval is Tango's. With several, it is Student's interval for
    the mean of the problems' differences with two pseudo-problems added (see `improvement_upper_bound`), and the tests are
    sign tests: a problem is gained if its share rose and lost if it fell.

    Source of the test: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), in its exact, binomial form. Raises ValueError without problems or if the lengths
    differ.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    pairs = list(zip(first, second, strict=True))
    if not pairs:
        raise ValueError("nothing to compare: no problems")
    num_gained = sum(after > before for before, after in pairs)
    num_lost = sum(after < before for before, after in pairs)
    if {share for pair in pairs for share in pair} <= {0, 1}:
        difference = (num_gained - num_lost) / len(pairs)
        low = _tango_lower_limit(num_gained, num_lost, len(pairs))
        high = -_tango_lower_limit(num_lost, num_gained, len(pairs))
    else:
        difference = fmean(after - before for before, after in pairs)
        low, high = _student_limits([after - before for before, after in pairs])
    return PairedDifference(
        num_problems=len(pairs),
        num_gained=num_gained,
        num_lost=num_lost,
        difference=difference,
        low=low,
        high=high,
        p_value=float(mcnemar([[0, num_gained], [num_lost, 0]], exact=True).pvalue),
        e_value=_e_value(num_gained, num_lost),
    )


def improvement_upper_bound(previous: Sequence[Sequence[float]], last: Sequence[Sequence[float]]) -> float:
    """Return the one-sided 95 % upper bound of the mean accuracy of the last checkpoints minus that of the previous ones.

    Both are results [checkpoint][problem] on the same problems. The bound is Student's for the mean of the problems'
    differences. Two pseudo-problems are added, one fully gained and one fully lost, so that the bound keeps a width above 0
    for checkpoints that hardly differ. Source of the addition: Bonett and Price, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data", J. Educational and Behavioral Statistics 37 (2012). Raises
    ValueError without checkpoints or if the numbers of problems differ.
    """
    import numpy as np
    from scipy.stats import ttest_1samp

    gains = np.mean(last, axis=0) - np.mean(previous, axis=0)
    padded_gains = np.append(gains, [1.0, -1.0])
    return float(ttest_1samp(padded_gains, 0, alternative="less").confidence_interval(0.95).high)


def mean_correlation(outcomes: Sequence[Sequence[float]]) -> float:
    """Return the pooled correlation, at least 0, between the outcomes of different checkpoints on the same problems.

    Outcomes are [checkpoint][problem]. The variance of the difference of two accuracies is smaller by this share than on
    independent problems. Source: Miller, "Adding error bars to evals", arXiv 2411.00640 (2024).
    """
    import numpy as np

    if len(outcomes) < 2:
        return 0.0
    solved_CP = np.array(outcomes, dtype=np.float64)
    own = float(solved_CP.var(axis=1).sum())
    if own == 0:
        return 0.0
    shared = float(solved_CP.sum(axis=0).var()) - own
    return max(0.0, shared / ((len(solved_CP) - 1) * own))


def _student_limits(gains: Sequence[float]) -> tuple[float, float]:
    """Return the ends, in [-1, 1], of Student's 95 % interval of the mean gain with two pseudo-problems added."""
    from scipy.stats import ttest_1samp

    interval = ttest_1samp([*gains, 1.0, -1.0], 0).confidence_interval(0.95)
    return max(-1.0, float(interval.low)), min(1.0, float(interval.high))


def _tango_lower_limit(num_gained: int, num_lost: int, num_problems: int) -> float:
    """Return the lower limit of the 95 % score interval of the difference of paired proportions; the upper is symmetric.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), equations for Z(difference) and the constrained estimate of P(lost).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if num_lost == num_problems:
        return -1.0
    critical = norm.ppf(0.975)

    def excess(difference: float) -> float:
        linear = (2 * num_problems - num_gained + num_lost) * difference - num_gained - num_lost
        constant = -num_lost * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear**2 - 8 * num_problems * constant))
        share_lost = (root - linear) / (4 * num_problems)
        variance = num_problems * (2 * share_lost + difference * (1 - difference))
        # The variance is 0 at differences of -1 and 1, and at 0 without discordant pairs; rounding can make it negative.
        return float((num_gained - num_lost - num_problems * difference) / math.sqrt(max(variance, 1e-12)) - critical)

    return float(brentq(excess, -1.0, (num_gained - num_lost) / num_problems))


def _e_value(num_gained: int, num_lost: int) -> float:
    """Return the e-value against "a discordant problem is gained with probability at most 1/2", capped at the largest float.

    It is the likelihood of the discordant problems, averaged over gain probabilities uniform in (1/2, 1), divided by that
    at 1/2: 2^(b+c+1) B(b+1, c+1) (1 - I_1/2(b+1, c+1)) with b gained and c lost. As a non-negative supermartingale, it ever
    reaches 20 with probability at most 1/20. Sources: Ville, "Étude critique de la notion de collectif" (1939); Ramdas,
    Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38 (2023).
    """
    import numpy as np
    from scipy.special import betaln, logsumexp
    from scipy.stats import binom

    num_tosses = num_gained + num_lost + 1
    # 1 - I_1/2(b+1, c+1) is P(at most b heads in b+c+1 tosses). It is summed in logs because scipy's logcdf underflows.
    log_tail = logsumexp(binom.logpmf(np.arange(num_gained + 1), num_tosses, 0.5))
    log_e_value = num_tosses * math.log(2) + betaln(num_gained + 1, num_lost + 1) + log_tail
    return math.exp(min(log_e_value, math.log(sys.float_info.max)))
