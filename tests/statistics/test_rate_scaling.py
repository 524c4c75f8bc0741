import numpy as np
import pytest

from mathsft.statistics.rate_scaling import Horizon, Tried, fit_horizon

RATES = [1e-3 * 2.0**place for place in range(-2, 3)]
LENGTHS = (512, 2048)
NUM_PROBLEMS = 800


def simulated(generator: np.random.Generator, factor: float, seed_sd: float = 0.0, curvature: float = 0.25) -> list[Tried]:
    """Runs at two lengths; the best rate is 1e-3 at the shorter and `factor` times that for each doubling."""
    tried = []
    for length in LENGTHS:
        doublings = np.log2(length / LENGTHS[0])
        for rate in RATES:
            distance = np.log2(rate / 1e-3) - doublings * np.log2(factor)
            logit = -0.5 + 0.4 * doublings - curvature * distance**2 + generator.normal(0, seed_sd)
            num_correct = int(generator.binomial(NUM_PROBLEMS, 1 / (1 + np.exp(-logit))))
            tried.append(Tried(rate, length, num_correct, NUM_PROBLEMS))
    return tried


def test_what_was_simulated_is_found_and_extrapolated() -> None:
    found = fit_horizon(simulated(np.random.default_rng(1), factor=0.8), num_examples=8192)
    assert found is not None and found.moves
    assert found.factor_per_doubling.low < 0.8 < found.factor_per_doubling.high < 1
    assert [length for length, _ in found.optima] == list(LENGTHS)
    assert found.learning_rate.low < 1e-3 * 0.8**4 < found.learning_rate.high
    assert found.accuracy.low < 1 / (1 + np.exp(-(-0.5 + 0.4 * 4))) < found.accuracy.high


@pytest.mark.parametrize("seed_sd", [0.0, 0.08])
def test_brackets_hold_what_they_should_as_often_as_they_say(seed_sd: float) -> None:
    generator = np.random.default_rng(2)
    found = [fit_horizon(simulated(generator, factor=0.85, seed_sd=seed_sd), num_examples=8192) for _ in range(120)]
    told = [one for one in found if one is not None]
    assert len(told) > 90

    def coverage(name: str, truth: float) -> float:
        brackets = [getattr(one, name) for one in told]
        return float(np.mean([bracket.low <= truth <= bracket.high for bracket in brackets]))

    # Five runs' chi-squared estimates the seeds' noise on five degrees of freedom, which leaves a bracket a little short.
    for name, truth in (("factor_per_doubling", 0.85), ("learning_rate", 1e-3 * 0.85**4)):
        assert 0.86 <= coverage(name, truth) <= 1.0


def test_a_rate_that_stays_is_said_to_move_only_by_chance() -> None:
    generator = np.random.default_rng(3)
    found = [fit_horizon(simulated(generator, factor=1.0, seed_sd=0.05), num_examples=8192) for _ in range(100)]
    assert np.mean([one.moves for one in found if one is not None]) < 0.13


def none_of(tried: list[Tried]) -> Horizon | None:
    return fit_horizon(tried, num_examples=8192)


def test_without_a_highest_point_inside_nothing_is_said() -> None:
    generator = np.random.default_rng(4)
    assert none_of(simulated(generator, factor=1.0, curvature=-0.2)) is None  # a valley
    assert none_of(simulated(generator, factor=4.0)) is None  # beyond the rates tried
    assert none_of([Tried(one.learning_rate, one.num_examples, 0, 800) for one in simulated(generator, 1.0)]) is None
    assert none_of(simulated(generator, factor=1.0)[1:6]) is None  # too few


def test_runs_of_one_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two lengths, but have \[512\]"):
        fit_horizon(simulated(np.random.default_rng(5), factor=1.0)[:5], num_examples=8192)
