import numpy as np
import pytest
from scipy.stats import binom, norm

from mathsft.statistics.paired import compare
from mathsft.statistics.power import minimum_detectable_difference, minimum_detectable_difference_unpaired


@pytest.mark.parametrize(("num_problems", "discordance"), [(100, 0.3), (200, 0.15), (200, 0.0)])
def test_a_gain_of_that_size_is_found_in_four_of_five_comparisons(num_problems: int, discordance: float) -> None:
    gain = minimum_detectable_difference(num_problems, discordance)
    discordance = max(discordance, gain)
    shares = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    drawn = np.random.default_rng(5).multinomial(num_problems, shares, size=20_000)
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    found = [compare([False] * gained + [True] * lost, [True] * gained + [False] * lost) for gained, lost, _ in counts]
    is_found = np.array([one.p_value <= 0.05 and one.num_gained > one.num_lost for one in found])
    assert times[is_found].sum() / times.sum() == pytest.approx(0.8, abs=0.01)


def test_grows_as_the_square_root_of_the_discordance_over_the_problems() -> None:
    """Where both are large: Connor, "Sample size for testing differences in proportions for the paired-sample design", 1987."""
    expected = (norm.ppf(0.975) + norm.ppf(0.8)) * np.sqrt(0.2 / 5000)
    assert minimum_detectable_difference(5000, 0.2) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9])
def test_an_unpaired_difference_of_that_size_is_found_by_a_z_test_in_four_of_five(accuracy: float) -> None:
    num_problems = 200
    difference = minimum_detectable_difference_unpaired(num_problems, accuracy)
    other = accuracy + difference if accuracy <= 0.5 else accuracy - difference
    counts = np.arange(num_problems + 1)
    first, second = counts[:, None] / num_problems, counts[None, :] / num_problems
    pooled = (first + second) / 2
    z = np.abs(first - second) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * 2 / num_problems)
    chances = binom.pmf(counts, num_problems, accuracy)[:, None] * binom.pmf(counts, num_problems, other)
    assert chances[z > norm.ppf(0.975)].sum() == pytest.approx(0.8, abs=0.02)


def test_pairing_detects_less() -> None:
    """Two checkpoints of 30 % that disagree on 15 % of the problems."""
    assert minimum_detectable_difference(200, 0.15) < 0.6 * minimum_detectable_difference_unpaired(200, 0.3)


def test_refuses_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        minimum_detectable_difference(5, 0.1)
    with pytest.raises(ValueError, match="discordance"):
        minimum_detectable_difference(100, 1.1)
    with pytest.raises(ValueError, match="accuracy"):
        minimum_detectable_difference_unpaired(100, 1.1)
