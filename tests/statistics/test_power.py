import numpy as np
import pytest
from scipy.stats import norm

from mathsft.statistics.paired import compare
from mathsft.statistics.power import minimum_detectable_difference


@pytest.mark.parametrize(("num_problems", "discordance"), [(100, 0.3), (200, 0.15), (200, 0.0)])
def test_a_gain_of_that_size_is_found_in_four_of_five_comparisons(num_problems: int, discordance: float) -> None:
    gain = minimum_detectable_difference(num_problems, discordance)
    discordance = max(discordance, gain)
    shares = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    drawn = np.random.default_rng(5).multinomial(num_problems, shares, size=20_000)
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    found = [
        compare([False] * gained + [True] * (lost + rest), [True] * gained + [False] * lost + [True] * rest)
        for gained, lost, rest in counts
    ]
    is_found = np.array([one.p_value <= 0.05 and one.num_gained > one.num_lost for one in found])
    assert times[is_found].sum() / times.sum() == pytest.approx(0.8, abs=0.01)


def test_grows_as_the_square_root_of_the_discordance_over_the_problems() -> None:
    """Connor, "Sample size for testing differences in proportions for the paired-sample design" (1987)."""
    expected = (norm.ppf(0.975) + norm.ppf(0.8)) * np.sqrt(0.2 / 5000)
    assert minimum_detectable_difference(5000, 0.2) == pytest.approx(expected, rel=0.02)


def test_refuses_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        minimum_detectable_difference(5, 0.1)
    with pytest.raises(ValueError, match="discordance"):
        minimum_detectable_difference(100, 1.1)
