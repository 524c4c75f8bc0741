import numpy as np
import pytest
from scipy.special import expit

from mathsft.statistics.optimism import best_of_k

NUM_STUDIES = 40


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_corrected_accuracy_is_nearly_unbiased_where_the_raw_one_is_not(spread: float) -> None:
    """20 trials on 200 problems of very different difficulty; the trials' abilities (in logits) have this deviation."""
    rng = np.random.default_rng(11)
    other_problems = rng.normal(1, 2.5, size=20_000)
    raw_errors, corrected_errors = [], []
    for study in range(NUM_STUDIES):
        abilities = rng.normal(0, spread, size=20)
        harder = rng.normal(0, 2.5, size=100)
        problems = 1 + np.concatenate([harder, -harder])  # in pairs: less of the noise that all trials share
        best = best_of_k((rng.random((20, 200)) < expit(abilities[:, None] - problems)).tolist(), seed=study)
        truth = expit(abilities[best.index] - other_problems).mean()
        raw_errors.append(best.raw - truth)
        corrected_errors.append(best.corrected - truth)
    assert np.mean(raw_errors) > 0.02
    assert abs(np.mean(corrected_errors)) < 0.01


def test_a_choice_that_is_none_needs_no_correction() -> None:
    results = (np.random.default_rng(0).random(200) < 0.3).tolist()
    for copies in (1, 5):
        best = best_of_k([results] * copies, seed=0)
        assert best.index == 0  # the earliest of equals
        assert best.raw == np.mean(results)
        assert best.optimism == pytest.approx(0, abs=0.003)
        assert best.corrected == pytest.approx(best.raw - best.optimism)


def test_depends_on_the_seed_alone() -> None:
    results = (np.random.default_rng(0).random((5, 50)) < 0.3).tolist()
    assert best_of_k(results, seed=1) == best_of_k(results, seed=1)
    assert best_of_k(results, seed=1) != best_of_k(results, seed=2)


@pytest.mark.parametrize("results", [[], [[True]], [[True, False], [True]]])
def test_refuses_what_is_no_choice_on_the_same_problems(results: list[list[bool]]) -> None:
    with pytest.raises(ValueError):
        best_of_k(results, seed=0)
