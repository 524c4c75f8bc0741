import numpy as np
import pytest

from mathsft.config.study_schema import Choices, FloatRange
from mathsft.statistics.importance import importance
from mathsft.statistics.surface import Observation, candidates, draw, predict

SPACE = {
    "rate": FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    "size": Choices(type="categorical", choices=(8, 16, 32, 64)),
}


def observed(of_rate: float, of_size: float) -> list[Observation]:
    """Trials whose accuracy is a line in the place of each setting in its range, with so much slope."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(40):
        at, size = generator.uniform(), int(generator.integers(4))
        accuracy = 0.4 + of_rate * (at - 0.5) + of_size * (size / 3 - 0.5)
        found.append(Observation({"rate": 1e-5 * 1000**at, "size": (8, 16, 32, 64)[size]}, accuracy, 1e-4))
    return found


@pytest.mark.parametrize(("of_rate", "of_size"), [(0.4, 0.0), (0.0, 0.4)])
def test_what_does_nothing_has_no_share(of_rate: float, of_size: float) -> None:
    shares = importance(SPACE, observed(of_rate, of_size))
    matters, other = ("rate", "size") if of_rate else ("size", "rate")
    assert shares[matters].share > 0.9 and shares[other].share < 0.05
    assert shares[matters].low > 0.8 and shares[other].high < 0.2, "many trials with little noise"


def test_shares_are_those_of_the_variances() -> None:
    # Of uniform shares a slope makes a variance of slope² / 12; of four even choices, slope² x 5 / 36.
    shares = importance(SPACE, observed(0.3, 0.3))
    expected = (1 / 12) / (1 / 12 + 5 / 36)
    assert shares["rate"].share == pytest.approx(expected, abs=0.08)
    assert sum(effect.share for effect in shares.values()) == pytest.approx(1.0, abs=0.05)


def test_few_noisy_trials_leave_the_shares_open() -> None:
    noisy = [Observation(trial.settings, trial.accuracy, 0.02) for trial in observed(0.3, 0.3)[:6]]
    effects = importance(SPACE, noisy).values()
    assert all(effect.low <= effect.share <= effect.high for effect in effects)
    assert min(effect.high - effect.low for effect in effects) > 0.15
    assert max(effect.high - effect.low for effect in effects) > 0.3


def test_random_surfaces_have_the_mean_and_the_spread_of_the_prediction() -> None:
    trials, points = observed(0.3, 0.1)[:8], candidates(SPACE, 16)
    surface, drawn = predict(SPACE, trials, points), draw(SPACE, trials, points, 4000, seed=1)
    assert drawn.mean(axis=0) == pytest.approx(np.array(surface.means), abs=0.01)
    assert drawn.std(axis=0) == pytest.approx(np.array(surface.sds), abs=0.01)
