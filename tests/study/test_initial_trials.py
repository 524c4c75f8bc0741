from typing import Any

import pytest

from mathsft.config.schema import Experiment
from mathsft.store.study_store import StudyStore
from mathsft.study.initial_trials import best_settings, initial_settings
from tests.build import make_promotion, make_trial
from tests.study.toys import study_config

RATE, SIZE = "training.learning_rate", "training.batch_size"


def test_the_experiments_own_settings_come_first_and_none_comes_twice(experiment: Experiment) -> None:
    own = {RATE: 1e-3, SIZE: 16}
    enqueued = ({RATE: 2e-3}, own)
    assert initial_settings(study_config(enqueue=enqueued), experiment, [{SIZE: 8}]) == (own, {RATE: 2e-3}, {SIZE: 8})


def test_own_settings_outside_of_the_ranges_are_no_trial(experiment: Experiment) -> None:
    narrow = {RATE: {"type": "float", "low": 1e-2, "high": 1.0, "log": True}}
    assert initial_settings(study_config(search=narrow), experiment, []) == ()


def test_a_searched_argument_that_the_experiment_does_not_give_is_left_to_the_sampler(experiment: Experiment) -> None:
    thinking = {"type": "categorical", "choices": (True, False)}
    sizes = {"type": "categorical", "choices": (8, 16)}
    search = {SIZE: sizes, "prompt.chat_arguments.enable_thinking": thinking}
    assert initial_settings(study_config(search=search), experiment, []) == ({SIZE: 16},)


@pytest.mark.parametrize(
    ("enqueued", "complaint"),
    [
        ({"training.beta1": 0.5}, "is not searched"),
        ({RATE: 1.0}, "outside its range"),
        ({SIZE: 9}, "outside its range"),
    ],
)
def test_what_cannot_be_tried_cannot_be_enqueued(enqueued: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        study_config(enqueue=(enqueued,))


def test_another_studys_best_settings_as_far_as_they_fit(store: StudyStore) -> None:
    rates = {0: 1e-3, 1: 5e-1, 2: 2e-3, 3: 3e-3, 4: 4e-3}
    for number, rate in rates.items():
        store.write(make_trial(number, {RATE: rate, "training.weight_decay": 0.1}, value=number / 10))
    store.write(make_promotion("trial-2", {RATE: 2e-3}))
    assert best_settings(store, study_config().search) == [{RATE: 2e-3}, {RATE: 4e-3}, {RATE: 3e-3}]
