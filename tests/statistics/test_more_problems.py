"""How many more problems prove a difference, against simulations that use neither the module's sums nor its bisections."""

import numpy as np
import pytest
from scipy.stats import beta, norm

from mathsft.statistics.power import more_problems, noise_floor


def proven_share(gained: int, lost: int, num_problems: int, num_added: int) -> float:
    """Return in which share of simulations the e-value is 20 after num_added problems like these.

    The e-value is the evidence of a prior that is uniform above 1/2 against a gain probability of 1/2.
    """
    rates = [gained / num_problems, lost / num_problems, 1 - (gained + lost) / num_problems]
    drawn = np.random.default_rng(7).multinomial(num_added, rates, size=20_000)
    more, less = gained + drawn[:, 0], lost + drawn[:, 1]
    # By Bayes' rule at 1/2, the evidence of a uniform prior against 1/2 is the inverse of the posterior density there.
    e_values = 2 * np.exp(-beta.logpdf(0.5, more + 1, less + 1)) * beta.sf(0.5, more + 1, less + 1)
    return float(np.mean(e_values >= 20))


@pytest.mark.parametrize(("gained", "lost", "num_problems"), [(20, 10, 200), (60, 40, 500), (5, 0, 200), (9, 4, 60)])
def test_as_many_more_problems_prove_the_difference_in_four_of_five_studies(
    gained: int, lost: int, num_problems: int
) -> None:
    needed = more_problems(gained, lost, num_problems)
    assert needed is not None and needed == more_problems(lost, gained, num_problems)
    assert proven_share(gained, lost, num_problems, needed) == pytest.approx(0.8, abs=0.01)
    assert proven_share(gained, lost, num_problems, needed // 2) < 0.72


def test_what_is_proven_needs_no_more_and_what_is_equal_never_ends() -> None:
    assert more_problems(30, 8, 200) == 0
    assert more_problems(7, 7, 200) is more_problems(0, 0, 200) is None
    assert more_problems(1001, 1000, 10_000) is None


def test_equally_good_checkpoints_differ_by_more_than_the_noise_floor_in_five_percent() -> None:
    differences = np.diff(np.random.default_rng(3).multinomial(2000, [0.1, 0.1, 0.8], size=20_000)[:, :2], axis=1) / 2000
    assert np.mean(np.abs(differences) > noise_floor(2000, 0.2)) == pytest.approx(0.05, abs=0.006)
    assert noise_floor(400, 0.25) == pytest.approx(norm.ppf(0.975) * 0.025)
