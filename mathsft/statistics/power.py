"""Computes which differences a number of problems can detect, and how many more problems would prove a difference.

"Detect" means: with power 0.8, at two-sided significance 0.05. "Prove" means: by an e-value of 20, however often one looks.
"""

import math

SIGNIFICANCE = 0.05
POWER = 0.8
PROVEN = 20
"""Two equally good checkpoints reach this e-value with a probability of at most 1/20, however often they are compared."""
MOST_PROBLEMS = 100_000
MIN_PROBLEMS = 6
"""On fewer problems no difference is ever significant."""


def minimum_detectable_difference(num_problems: int, discordance: float) -> float:
    """Return the smallest true gain on the same problems that `paired.compare` finds significant in 80 % of comparisons.

    discordance is the share of problems that exactly one checkpoint solves, (num_gained + num_lost) / num_problems; it is
    raised to the gain if it is smaller. With several responses per problem it is the mean squared difference of the shares,
    which has the same variance. The power is that of McNemar's exact test, averaged over the number of discordant
    problems. Source: Duffy, "Asymptotic and exact power for the McNemar test and its analogue with R controls per case",
    Biometrics 40 (1984). Raises ValueError for a discordance outside [0, 1] or for fewer than 6 problems, with which no gain
    is ever significant.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import binom

    if num_problems < MIN_PROBLEMS or not 0 <= discordance <= 1:
        raise ValueError(f"num_problems {num_problems} must be at least {MIN_PROBLEMS}, discordance {discordance} in [0, 1]")
    num_discordant = np.arange(num_problems + 1)
    most_lost = binom.ppf(SIGNIFICANCE / 2, num_discordant, 0.5) - 1  # the most losses with which a gain is significant

    def missing_power(gain: float) -> float:
        share_discordant = max(discordance, gain)
        share_lost = (1 - gain / share_discordant) / 2
        significant = binom.cdf(most_lost, num_discordant, share_lost)
        return float(POWER - binom.pmf(num_discordant, num_problems, share_discordant) @ significant)

    return float(brentq(missing_power, 1e-9, 1.0))


def noise_floor(num_problems: int, discordance: float) -> float:
    """Return the difference of accuracies that two equally good checkpoints exceed, by chance, in 5 % of comparisons.

    discordance is that of `minimum_detectable_difference`. The variance of the difference is discordance / num_problems.
    """
    from scipy.stats import norm

    return float(norm.ppf(1 - SIGNIFICANCE / 2)) * math.sqrt(discordance / num_problems)


def more_problems(num_gained: int, num_lost: int, num_problems: int) -> int | None:
    """Return how many more problems would prove the difference: its e-value reaches 20 with a probability of 0.8.

    This is the conditional power of continuing with the problems so far, if further problems are gained and lost at the
    observed rates: Lachin, "A review of methods for futility stopping based on conditional power", Statistics in Medicine 24
    (2005). Returns 0 for a difference that is proven, and None if there is none, or if 100,000 problems are not enough.
    """
    num_more, num_less = max(num_gained, num_lost), min(num_gained, num_lost)
    if num_more == num_less:
        return None

    def chance(num_added: int) -> float:
        return _chance_of_proof(num_more, num_less, num_problems, num_added)

    if chance(0) >= POWER:
        return 0
    too_few, enough = 0, num_problems
    while chance(enough) < POWER:
        too_few, enough = enough, 2 * enough
        if enough > MOST_PROBLEMS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (middle, enough) if chance(middle) < POWER else (too_few, middle)
    return enough


def _chance_of_proof(num_gained: int, num_lost: int, num_problems: int, num_added: int) -> float:
    """Return the probability that the e-value is 20 after num_added problems more, at the observed rates."""
    import numpy as np
    from scipy.special import betaincc, betaln
    from scipy.stats import binom

    num_seen = num_gained + num_lost
    added = binom(num_added, num_seen / num_problems)
    discordant = np.arange(added.ppf(1e-9), added.isf(1e-9) + 1)  # of the added problems; the rest is too improbable
    total = num_seen + discordant

    def is_proof(gained: "np.typing.NDArray[np.float64]") -> "np.typing.NDArray[np.bool_]":
        with np.errstate(divide="ignore"):
            log_tail = np.log(betaincc(gained + 1, total - gained + 1, 0.5))
        log_e_values = (total + 1) * math.log(2) + betaln(gained + 1, total - gained + 1) + log_tail  # as in `paired`
        return np.asarray(log_e_values >= math.log(PROVEN))

    # The e-value grows with the gains: bisect for the fewest that prove it, which are within five standard deviations.
    too_few, enough = total // 2, np.minimum(total + 1, total // 2 + np.ceil(2.5 * np.sqrt(total)).astype(int) + 3)
    while np.any(enough - too_few > 1):
        middle = (too_few + enough) // 2
        proves = is_proof(middle)
        too_few, enough = np.where(proves, too_few, middle), np.where(proves, middle, enough)
    reached = binom.sf(enough - num_gained - 1, discordant, num_gained / num_seen)
    return float(added.pmf(discordant) @ reached)
