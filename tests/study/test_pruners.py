"""The project's own pruner on planted curves."""

import math
from typing import Any

import optuna
import pytest

from mathsft.study.components import make_pruner, make_space
from tests.study.toys import study_config

RATE = "training.learning_rate"
SPACE = {RATE: {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}}
ENDS = {1e-5: 0.30, 3e-5: 0.36, 1e-4: 0.40, 2e-4: 0.38, 3e-4: 0.36, 5e-4: 0.33, 1e-3: 0.28}
"""Accuracy at the end of a trial by its learning rate."""


def early(rate: float) -> float:
    """Return the accuracy at the first eval point: with the lowest rate a third of the end, with the highest two thirds."""
    return ENDS[rate] * (1 + math.log(rate / 1e-5) / math.log(100)) / 3


def is_pruned(rate: float, accuracy: float, num_finished: int = len(ENDS), **arguments: Any) -> bool:
    """Return the verdict on a trial with this accuracy at its first eval point, after trials with the planted ends."""
    config = study_config(search=SPACE, pruner={"name": "PredictedEndPruner", "arguments": arguments})
    study, space = optuna.create_study(direction="maximize", pruner=make_pruner(config)), make_space(config)
    for finished in list(ENDS)[:num_finished]:
        study.add_trial(
            optuna.trial.create_trial(
                params={RATE: finished}, distributions=space, value=ENDS[finished], intermediate_values={0: early(finished)}
            )
        )
    study.enqueue_trial({RATE: rate})
    trial = study.ask(space)
    assert not trial.should_prune(), "without a score"
    trial.report(accuracy, 0)
    return trial.should_prune()


def test_a_bad_trial_is_pruned_and_a_good_one_goes_on() -> None:
    assert is_pruned(1e-3, 0.05)
    assert not is_pruned(1e-4, early(1e-4))


def test_a_trial_that_learns_late_is_judged_by_its_own_settings() -> None:
    """At this eval point the accuracy of the best end with a low rate is a bad one with the highest rate."""
    accuracy = 0.40 * 1.1 / 3
    assert not is_pruned(1.5e-5, accuracy)
    assert is_pruned(1e-3, accuracy)


def test_no_trial_is_pruned_before_enough_have_finished() -> None:
    assert not is_pruned(1e-3, 0.05, num_finished=4)
    assert is_pruned(1e-3, 0.05, num_finished=4, n_startup_trials=4)
    assert not is_pruned(1e-3, 0.05, n_startup_trials=8)


@pytest.mark.parametrize("arguments", [{"chance": 1e-9}, {"top": 0.99}])
def test_its_arguments_decide_how_much_is_pruned(arguments: dict[str, float]) -> None:
    accuracy = 0.8 * early(1e-3)
    assert is_pruned(1e-3, accuracy, chance=0.5, top=0.1)
    assert not is_pruned(1e-3, accuracy, **arguments)
