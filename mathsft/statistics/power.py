"""Computes the smallest difference that a number of problems can detect, with power 0.8 at two-sided significance 0.05."""

SIGNIFICANCE = 0.05
POWER = 0.8


def minimum_detectable_difference(num_problems: int, discordance: float) -> float:
    """Return the smallest true gain on the same problems that `paired.compare` finds significant in 80 % of comparisons.

    discordance is the share of problems that exactly one checkpoint solves, (num_gained + num_lost) / num_problems; it is
    raised to the gain if it is smaller. The power is that of McNemar's exact test, averaged over the number of discordant
    problems. Source: Duffy, "Asymptotic and exact power for the McNemar test and its analogue with R controls per case",
    Biometrics 40 (1984). Raises ValueError for a discordance outside [0, 1] or for fewer than 6 problems, with which no gain
    is ever significant.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import binom

    if num_problems < 6 or not 0 <= discordance <= 1:
        raise ValueError(f"num_problems {num_problems} must be at least 6, discordance {discordance} in [0, 1]")
    num_discordant = np.arange(num_problems + 1)
    most_lost = binom.ppf(SIGNIFICANCE / 2, num_discordant, 0.5) - 1  # the most losses with which a gain is significant

    def missing_power(gain: float) -> float:
        share_discordant = max(discordance, gain)
        share_lost = (1 - gain / share_discordant) / 2
        significant = binom.cdf(most_lost, num_discordant, share_lost)
        return float(POWER - binom.pmf(num_discordant, num_problems, share_discordant) @ significant)

    return float(brentq(missing_power, 1e-9, 1.0))
