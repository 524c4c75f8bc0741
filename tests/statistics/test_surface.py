"""The smoothed surface on planted ones."""

import math

import numpy as np
import pytest

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import Choices, FloatRange, IntRange, SearchRange
from mathsft.statistics.importance import importance
from mathsft.statistics.surface import SAME_SETTING, Observation, candidates, embed, new_optimum, position, smooth

RATE = FloatRange(type="float", low=1e-5, high=1e-2, log=True)
BATCH = Choices(type="categorical", choices=(8, 16, 32, 64, 128))
SPACE: dict[str, SearchRange] = {"rate": RATE, "batch": BATCH}


def planted(rate: float, batch: int) -> float:
    return 0.5 - 0.1 * math.log10(rate / 5e-4) ** 2 - 0.03 * math.log2(batch / 16) ** 2


def observations(noise: float, num: int = 30) -> list[Observation]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num):
        rate, batch = 10 ** rng.uniform(-5, -2), int(rng.choice(BATCH.choices))  # type: ignore[arg-type]
        found.append(Observation({"rate": rate, "batch": batch}, planted(rate, batch) + rng.normal(0, noise), noise**2))
    return found


def test_the_optimum_of_a_planted_surface_is_found_and_noise_is_smoothed_away() -> None:
    given = observations(noise=0.03)
    surface = smooth(SPACE, given)
    best = new_optimum(SPACE, given, boldness=0.0)
    assert best["batch"] in (8, 16, 32)
    assert 2e-4 < float(best["rate"]) < 1.2e-3
    truth = np.array([planted(**each.settings) for each in given])  # type: ignore[arg-type]
    raw_error = np.abs([each.accuracy for each in given] - truth).mean()
    assert np.abs(np.array(surface.means) - truth).mean() < 0.75 * raw_error
    assert np.mean(np.abs(np.array(surface.means) - truth) < 2 * np.array(surface.sds)) > 0.8


def test_a_bold_optimum_lies_where_less_is_known() -> None:
    given = [Observation({"rate": rate, "batch": 16}, 0.3, 1e-4) for rate in (1e-5, 2e-5, 4e-5, 8e-5)]
    assert float(new_optimum(SPACE, given, boldness=2.0)["rate"]) > 1e-3


def test_the_same_observations_give_the_same_surface() -> None:
    assert smooth(SPACE, observations(0.03)) == smooth(SPACE, observations(0.03))
    assert new_optimum(SPACE, observations(0.03), 2.0) == new_optimum(SPACE, observations(0.03), 2.0)


def test_replicates_of_a_setting_share_a_mean_and_are_surer_than_one() -> None:
    given = observations(0.01, 8)
    again = Observation(given[0].settings, given[0].accuracy - 0.04, given[0].variance)
    surface, alone = smooth(SPACE, [*given, again]), smooth(SPACE, given)
    assert surface.means[0] == pytest.approx(surface.means[-1])
    assert given[0].accuracy - 0.04 < surface.means[0] < alone.means[0]


def test_one_observation_or_equal_ones_are_enough() -> None:
    alone = Observation({"rate": 1e-3, "batch": 8}, 0.3, 0.001)
    assert smooth(SPACE, [alone]).means == pytest.approx([0.3])
    assert smooth(SPACE, [alone, alone]).means == pytest.approx([0.3, 0.3])


def test_what_is_tried_observed_or_pending_is_not_proposed_again() -> None:
    given = observations(0.01)
    first = new_optimum(SPACE, given, 2.0)
    for pending, tried in (([first], []), ([], [first])):
        second = new_optimum(SPACE, given, 2.0, pending, tried)
        points = embed(SPACE, [first, second, *(one.settings for one in given)])
        assert np.linalg.norm(points[:1] - points[1:2]) > SAME_SETTING
        assert np.linalg.norm(points[2:] - points[1], axis=1).min() > SAME_SETTING


def test_a_pending_setting_takes_the_uncertainty_around_it_away() -> None:
    given = [Observation({"rate": rate, "batch": 16}, 0.3, 1e-4) for rate in (1e-5, 2e-5, 4e-5, 8e-5)]
    first = new_optimum(SPACE, given, 2.0)
    merely_tried = new_optimum(SPACE, given, 2.0, tried=[first])
    believed = new_optimum(SPACE, given, 2.0, pending=[first])
    points = embed(SPACE, [first, merely_tried, believed])
    assert np.linalg.norm(points[2] - points[0]) > 3 * np.linalg.norm(points[1] - points[0])


def test_a_space_that_is_tried_up_is_replicated() -> None:
    space: dict[str, SearchRange] = {"batch": Choices(type="categorical", choices=(8, 16))}
    given = [Observation({"batch": 8}, 0.2, 1e-4), Observation({"batch": 16}, 0.4, 1e-4)]
    assert new_optimum(space, given, 0.0) == {"batch": 16}


def test_choices_without_an_order_are_told_apart() -> None:
    space: dict[str, SearchRange] = {"precision": Choices(type="categorical", choices=("bf16", "fp32", "fp8"))}
    accuracies: dict[Scalar, float] = {"bf16": 0.2, "fp32": 0.6, "fp8": 0.2}
    given = [Observation({"precision": name}, accuracy, 1e-4) for name, accuracy in accuracies.items() for _ in range(3)]
    surface = smooth(space, given)
    by_name = {one.settings["precision"]: mean for one, mean in zip(given, surface.means, strict=True)}
    assert by_name["fp32"] > 0.5 > by_name["bf16"] == pytest.approx(by_name["fp8"], abs=0.01)


@pytest.mark.parametrize(
    ("given", "value", "expected"),
    [
        (RATE, 1e-5, 0.0),
        (RATE, 10**-3.5, 0.5),
        (BATCH, 128, 1.0),
        (BATCH, 24, 0.375),  # the experiment's own value may be none of the choices
        (IntRange(type="int", low=1, high=5), 2, 0.25),
        (Choices(type="categorical", choices=(True, False)), True, None),
    ],
)
def test_a_value_lies_at_a_share_of_its_range(given: SearchRange, value: Scalar, expected: float | None) -> None:
    assert position(given, value) == pytest.approx(expected)


def test_a_setting_that_applies_to_some_trials_only_has_no_place_in_the_others() -> None:
    space: dict[str, SearchRange] = {
        "training.method": Choices(type="categorical", choices=("full", "lora")),
        "training.lora.rank": Choices(type="categorical", choices=(4, 16, 64)),
        "training.lora.dropout": FloatRange(type="float", low=1e-3, high=0.5, log=True),
    }
    full = {"training.method": "full"}
    lora = {"training.method": "lora", "training.lora.rank": 64, "training.lora.dropout": 1e-3}
    assert embed(space, [full, lora]).tolist() == [[1, 0, 0.5, 0.5], [0, 1, 1, 0]]
    proposed = candidates(space)
    assert {len(settings) for settings in proposed} == {1, 3}
    assert all((len(settings) == 3) == (settings["training.method"] == "lora") for settings in proposed)
    # LoRA is better, the more the higher its rank; full fine-tuning lies between.
    accuracies = {4: 0.2, 16: 0.5, 64: 0.8}
    given = [Observation(full, 0.4, 1e-4)] * 3
    for rank, accuracy in accuracies.items():
        given += [Observation({**lora, "training.lora.rank": rank, "training.lora.dropout": 0.02}, accuracy, 1e-4)] * 3
    assert new_optimum(space, given, boldness=0.0)["training.lora.rank"] == 64
    shares = importance(space, given)
    assert shares["training.lora.rank"].share > 10 * shares["training.lora.dropout"].share
