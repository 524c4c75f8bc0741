import json

import pytest

from bench.selection import NAIVE_PROBLEMS, NAIVE_TRIALS, OURS, Outcome, result_line, simulate
from bench.surfaces import BATCH, FAMILIES, RATE, SEED_SD, World


def test_ratios_are_to_the_better_naive_of_each_family() -> None:
    rules = {
        OURS: [Outcome(0.01, 0.002, covered=True), Outcome(0.03, -0.001, covered=False)],
        NAIVE_TRIALS: [Outcome(0.05, 0.04), Outcome(0.03, 0.06)],
        NAIVE_PROBLEMS: [Outcome(0.09, 0.02), Outcome(0.09, 0.02)],
    }
    line = json.loads(result_line(dict.fromkeys(FAMILIES, rules)))
    assert line["regret_ratio_smooth"] == line["regret_ratio_rough"] == 0.5
    assert 0 < line["regret_ratio_smooth_error"] < 0.5
    assert line["optimism_ratio"] == 0.01
    assert line["coverage"] == 0.5


@pytest.mark.slow
def test_a_simulated_study_depends_on_its_seed_alone_and_nobody_beats_the_best() -> None:
    first = simulate(("quickstart", 3))
    assert first == simulate(("quickstart", 3))
    assert all(outcome.regret > -1e-3 for outcome in first.values())
    assert first[OURS].best_trial_regret <= first[OURS].regret


def test_trials_solve_the_share_that_their_surface_says_and_mostly_the_same_problems() -> None:
    world = World("plateau", 0)
    settings = {RATE: 3e-4, BATCH: 32}
    trials = [world.train(number, settings) for number in range(40)]
    mean = sum(trial.accuracy for trial in trials) / len(trials)
    assert mean == pytest.approx(trials[0].setting_accuracy, abs=4 * SEED_SD / 40**0.5)
    first, second = trials[0].confirm, trials[1].confirm
    expected_if_independent = first.mean() * (1 - second.mean()) + second.mean() * (1 - first.mean())
    assert (first != second).mean() < 0.75 * expected_if_independent
