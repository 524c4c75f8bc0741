import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multinomial

from mathsft.statistics.paired import PairedDifference, compare, improvement_upper_bound, mean_correlation

NUM_PROBLEMS = 40


def compare_counts(num_gained: int, num_lost: int, num_both: int = 0, num_neither: int = 0) -> PairedDifference:
    first = [False] * num_gained + [True] * num_lost + [True] * num_both + [False] * num_neither
    second = [True] * num_gained + [False] * num_lost + [True] * num_both + [False] * num_neither
    return compare(first, second)


@pytest.fixture(scope="module")
def all_comparisons() -> list[PairedDifference]:
    """Every result that 40 problems can have."""
    return [
        compare_counts(num_gained, num_lost, num_neither=NUM_PROBLEMS - num_gained - num_lost)
        for num_gained in range(NUM_PROBLEMS + 1)
        for num_lost in range(NUM_PROBLEMS + 1 - num_gained)
    ]


def probabilities(comparisons: list[PairedDifference], share_gained: float, share_lost: float) -> np.ndarray:
    counts = [(one.num_gained, one.num_lost, NUM_PROBLEMS - one.num_gained - one.num_lost) for one in comparisons]
    return multinomial.pmf(counts, NUM_PROBLEMS, [share_gained, share_lost, 1 - share_gained - share_lost])


def test_agrees_with_a_published_example() -> None:
    """Cavo 2012 in Fagerland, Lydersen and Laake, "Statistical analysis of contingency tables" (2017), chapter 8."""
    found = compare_counts(num_gained=6, num_lost=16, num_both=59, num_neither=80)
    assert (found.num_problems, found.num_gained, found.num_lost) == (161, 6, 16)
    assert (found.difference, found.low, found.high) == pytest.approx((-0.0621, -0.1240, -0.0054), abs=5e-5)
    assert found.p_value == pytest.approx(0.052479, abs=1e-6)


def test_tangos_interval_covers_about_as_often_as_it_says(all_comparisons: list[PairedDifference]) -> None:
    lows, highs = (np.array([getattr(one, end) for one in all_comparisons]) for end in ("low", "high"))
    coverage = []
    for share_gained in np.linspace(0.01, 0.5, 12):
        for share_lost in np.linspace(0.01, 0.45, 12):
            covered = (lows <= share_gained - share_lost) & (share_gained - share_lost <= highs)
            coverage.append(probabilities(all_comparisons, share_gained, share_lost) @ covered)
    assert 0.945 < np.mean(coverage) < 0.965
    assert min(coverage) > 0.92


def test_mcnemars_test_errs_in_at_most_five_percent(all_comparisons: list[PairedDifference]) -> None:
    significant = np.array([one.p_value <= 0.05 for one in all_comparisons])
    errors = [probabilities(all_comparisons, share, share) @ significant for share in np.linspace(0.01, 0.5, 30)]
    assert 0.02 < max(errors) <= 0.05


def test_the_interval_turns_with_the_question(all_comparisons: list[PairedDifference]) -> None:
    by_counts = {(one.num_gained, one.num_lost): one for one in all_comparisons}
    for (num_gained, num_lost), one in by_counts.items():
        other = by_counts[num_lost, num_gained]
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
        assert -1 <= one.low <= one.difference <= one.high <= 1
        assert one.high - one.low > 0.08  # no certainty from 40 problems, not even where nothing changed


def e_value_boundary(num_looks: int) -> list[int]:
    """The fewest gains among n discordant problems with e >= 20, for n of 1 to num_looks; n + 1 where none suffices."""
    boundary, needed = [], 1
    for num_discordant in range(1, num_looks + 1):
        while needed <= num_discordant and compare_counts(needed, num_discordant - needed).e_value < 20:
            needed += 1
        boundary.append(needed)
    return boundary


def test_e_value_holds_however_often_one_looks() -> None:
    """The exact chance that the e-value reaches 20 at any of 500 looks, one after each discordant problem."""
    boundary = e_value_boundary(500)

    def chance_to_reach_20(chance_of_gain: float) -> float:
        going_on = np.array([1.0])  # by number of gains
        for needed in boundary:
            going_on = np.convolve(going_on, [1 - chance_of_gain, chance_of_gain])[:needed]
        return 1 - going_on.sum()

    assert 0.025 < chance_to_reach_20(0.5) <= 0.05
    assert chance_to_reach_20(0.45) < 0.01
    assert chance_to_reach_20(0.65) > 0.99


@pytest.mark.parametrize(("num_gained", "num_lost"), [(0, 0), (3, 1), (10, 4), (4, 10), (60, 40)])
def test_e_value_is_the_mean_likelihood_ratio(num_gained: int, num_lost: int) -> None:
    mean, _ = quad(lambda chance: 2 * (2 * chance) ** num_gained * (2 * (1 - chance)) ** num_lost, 0.5, 1)
    found = compare_counts(num_gained, num_lost, num_neither=1)
    assert found.e_value == pytest.approx(mean)


def test_e_value_of_thousands_of_problems_is_finite() -> None:
    assert 1e300 < compare_counts(5000, 0).e_value < float("inf")
    assert compare_counts(0, 5000).e_value == pytest.approx(1 / 5001)
    assert compare_counts(2500, 2600).e_value == pytest.approx(0.007552, rel=1e-3)


def test_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no problems"):
        compare([], [])
    with pytest.raises(ValueError, match="longer"):
        compare([True], [True, False])


@pytest.mark.parametrize(
    ("num_problems", "accuracy", "gain"), [(125, 0.3, 0.0), (200, 0.3, 0.03), (200, 0.02, 0.01), (200, 0.9, 0.0)]
)
def test_improvement_is_under_its_bound_about_as_often_as_it_says(num_problems: int, accuracy: float, gain: float) -> None:
    rng = np.random.default_rng(3)
    under = []
    for _ in range(300):
        chances = rng.beta(2 * accuracy, 2 * (1 - accuracy), size=num_problems)
        previous = rng.random((3, num_problems)) < chances
        last = rng.random((3, num_problems)) < chances + (1 - chances) * gain
        under.append(gain * (1 - accuracy) <= improvement_upper_bound(previous.tolist(), last.tolist()))
    assert np.mean(under) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)


def test_improvement_bound_is_not_far_above_the_improvement() -> None:
    rng = np.random.default_rng(3)
    chances = rng.beta(0.6, 1.4, size=500)
    scores = rng.random((6, 500)) < chances
    difference = scores[3:].mean() - scores[:3].mean()
    assert 0.01 < improvement_upper_bound(scores[:3].tolist(), scores[3:].tolist()) - difference < 0.03


def test_nothing_changed_is_not_certainty() -> None:
    unchanged = [[False] * 100] * 3
    assert 0.01 < improvement_upper_bound(unchanged, unchanged) < 0.03


@pytest.mark.parametrize("difficulty_sd", [0.0, 1.8])
def test_the_mean_correlation_tells_how_much_less_differences_vary_than_independent_accuracies(difficulty_sd: float) -> None:
    rng, num_problems = np.random.default_rng(0), 200
    correlations, differences, accuracies = [], [], []
    for _ in range(4000):
        chances = 1 / (1 + np.exp(rng.normal(0, difficulty_sd, num_problems)))
        outcomes = rng.random((6, num_problems)) < chances
        correlations.append(mean_correlation(outcomes.tolist()))
        differences.append(outcomes[0].mean() - outcomes[1].mean())
        accuracies.append(outcomes[0].mean())
    independent = 2 * np.var(accuracies)
    assert np.var(differences) / independent == pytest.approx(1 - np.mean(correlations), abs=0.1)
    assert np.mean(correlations) > 0.3 if difficulty_sd else np.mean(correlations) < 0.03


def test_what_is_known_of_one_checkpoint_or_never_varies_is_not_correlated() -> None:
    assert mean_correlation([]) == mean_correlation([[True, False]]) == 0.0
    assert mean_correlation([[True, True], [True, True]]) == 0.0
    assert mean_correlation([[True, False, True], [True, False, True]]) == 1.0
    assert mean_correlation([[True, False], [False, True]]) == 0.0
