from typing import Any

import pytest

from mathsft.config.schema import Experiment, StudyConfig
from mathsft.store.book import Book
from mathsft.study.given import best_settings, given_settings
from tests.build import make_promotion, make_trial

RATE, SIZE = "training.learning_rate", "training.batch_size"


def config(**changes: Any) -> StudyConfig:
    given = {
        "experiment": "toy",
        "search": {
            RATE: {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            SIZE: {"type": "categorical", "choices": [8, 16]},
        },
        "trial": {"num_examples": 128, "eval_points": [1.0]},
        "final": {"num_examples": 128, "eval_points": [1.0]},
    }
    return StudyConfig.model_validate({**given, **changes})


def test_the_experiments_own_settings_come_first_and_none_comes_twice(experiment: Experiment) -> None:
    own = {RATE: 1e-3, SIZE: 16}
    enqueued = ({RATE: 2e-3}, own)
    assert given_settings(config(enqueue=enqueued), experiment, [{SIZE: 8}]) == (own, {RATE: 2e-3}, {SIZE: 8})


def test_own_settings_outside_of_the_ranges_are_no_trial(experiment: Experiment) -> None:
    narrow = {RATE: {"type": "float", "low": 1e-2, "high": 1.0, "log": True}}
    assert given_settings(config(search=narrow), experiment, []) == ()


@pytest.mark.parametrize(
    ("enqueued", "complaint"),
    [
        ({"training.beta1": 0.5}, "is not searched"),
        ({RATE: 1.0}, "outside of its range"),
        ({SIZE: 9}, "outside of its range"),
    ],
)
def test_what_cannot_be_tried_cannot_be_enqueued(enqueued: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        config(enqueue=(enqueued,))


def test_another_studys_best_settings_as_far_as_they_fit(book: Book) -> None:
    rates = {0: 1e-3, 1: 5e-1, 2: 2e-3, 3: 3e-3, 4: 4e-3}
    for number, rate in rates.items():
        book.write(make_trial(number, {RATE: rate, "training.weight_decay": 0.1}, value=number / 10))
    book.write(make_promotion("trial-2", {RATE: 2e-3}))
    assert best_settings(book, config().search) == [{RATE: 2e-3}, {RATE: 4e-3}, {RATE: 3e-3}]
