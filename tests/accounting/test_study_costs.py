"""What a study's parts cost: by measured speeds, and by its own trials."""

from dataclasses import replace

import pytest

from mathsft.accounting.study_costs import (
    BATCH_SIZE,
    ENGINE_TOKEN_SECONDS,
    PRUNED_SHARE,
    START_RATIO,
    MeanCosts,
    assumed_speeds,
    batch_sizes,
    expected_costs,
    past_costs,
)
from mathsft.config.load import load_settings
from mathsft.config.study_schema import IntRange
from mathsft.costs import Speeds
from mathsft.data.pools import load_pools
from mathsft.records import RunState
from mathsft.store.study_store import StudyStore
from tests.accounting.test_forecast import placed
from tests.build import SPEEDS, make_checkpoint, make_promotion, make_score, make_session, make_trial, make_worker_call


def expect(speeds: Speeds, *assignments: str) -> MeanCosts:
    loaded = load_settings("quickstart", None, list(assignments))
    return expected_costs(loaded.study, loaded.experiment, speeds, num_search=200)


def test_an_example_costs_the_mean_over_the_batch_sizes_that_are_searched() -> None:
    costs = expect(SPEEDS, "pruner.name=NopPruner")
    per_example = 0.005 + 0.024 * (1 / 8 + 1 / 16 + 1 / 32 + 1 / 64 + 1 / 128) / 5
    assert costs.example == pytest.approx(per_example)
    assert costs.train == pytest.approx(1536 * per_example)
    assert costs.start == pytest.approx(6.0 * START_RATIO)


def test_scoring_costs_what_is_read_and_generated_and_the_targets_once() -> None:
    costs = expect(SPEEDS, "pruner.name=NopPruner")
    assert costs.response == pytest.approx(20 * 5e-5 + 40 * (1e-4 + ENGINE_TOKEN_SECONDS))
    assert costs.score == pytest.approx(4 * 200 * costs.response + 200 * 60 * 5e-5)  # four eval points
    shorter = expect(SPEEDS, "evaluation.max_tokens=10")  # a response is cut there
    assert shorter.response == pytest.approx(20 * 5e-5 + 10 * (1e-4 + ENGINE_TOKEN_SECONDS))
    sampled = expect(SPEEDS, "evaluation.num_samples=4", "evaluation.temperature=1.0")
    assert sampled.score > 3 * expect(SPEEDS).score


def test_a_pruner_saves_work_of_the_trials_after_its_first_ones() -> None:
    whole = expect(SPEEDS, "pruner.name=NopPruner")
    pruned = expect(SPEEDS)  # from the sixth of twenty trials on
    assert pruned.train == pytest.approx(whole.train * (1 - PRUNED_SHARE * 15 / 20))
    assert expect(SPEEDS, "num_trials=5") == whole
    assert expect(SPEEDS, "trial.eval_points=[1.0]").train == whole.train


def test_a_searched_range_of_batch_sizes_stands_for_its_middle_too() -> None:
    loaded = load_settings("quickstart", None, [])
    for log, middle in ((True, 32), (False, 68)):
        search = {BATCH_SIZE: IntRange(type="int", low=8, high=128, log=log)}
        sizes = batch_sizes(loaded.study.model_copy(update={"search": search}), loaded.experiment)
        assert (sizes[0], sizes[4], sizes[-1]) == (8, middle, 128)
    fixed = loaded.study.model_copy(update={"search": {}})
    assert batch_sizes(fixed, loaded.experiment) == [loaded.experiment.training.batch_size]


def test_without_a_measurement_a_larger_model_is_assumed_to_be_slower() -> None:
    loaded = load_settings("quickstart", None, [])
    problems = load_pools(loaded.experiment.data)["search"]
    hardware = placed().evaluators[0].settings.worker_device
    small, large = (assumed_speeds(size, loaded.experiment, problems, hardware) for size in (10**6, 10**9))
    assert large.example_seconds == pytest.approx(1000 * small.example_seconds)
    assert large.decoded_token_seconds == pytest.approx(1000 * small.decoded_token_seconds)
    on_cuda = assumed_speeds(10**9, loaded.experiment, problems, placed(2).evaluators[0].settings.worker_device)
    assert on_cuda.example_seconds < large.example_seconds
    assert replace(small, decoded_token_seconds=0, read_token_seconds=0, example_seconds=0) == replace(
        large, decoded_token_seconds=0, read_token_seconds=0, example_seconds=0
    )


# ---- a study's own past


def write_trial(
    store: StudyStore,
    number: int,
    state: RunState,
    train_seconds: float,
    score_seconds: float,
    batch_size: int = 16,
    step: int = 4,
) -> None:
    run = make_trial(number, {BATCH_SIZE: batch_size}, state=state, value=0.5)
    store.write(run)
    store.write(make_checkpoint(run.name, step, train_seconds=train_seconds, num_tokens=9e9))
    seconds = {"start_seconds": 99.0, "gold_seconds": 1.0, "generate_seconds": score_seconds - 1.0}
    store.write(make_score(run.name, step, **seconds))


def test_all_trials_that_ended_are_the_measure_pruned_ones_too(store: StudyStore) -> None:
    write_trial(store, 0, "finished", 10.0, 3.0)
    write_trial(store, 1, "pruned", 5.0, 2.0, step=2)
    assert past_costs(store) is None  # two trials say little
    write_trial(store, 2, "failed", 50.0, 50.0)
    assert past_costs(store) is None
    write_trial(store, 3, "finished", 15.0, 4.0, batch_size=8, step=8)
    costs = past_costs(store)
    assert costs is not None
    assert (costs.train, costs.score) == (10.0, 3.0)
    assert costs.example == pytest.approx(30.0 / (64 + 32 + 64))
    assert costs.response == pytest.approx((2.0 + 1.0 + 49.0 + 3.0) / 8)  # all scores count, the likelihood of targets not


def test_the_final_run_is_as_fast_as_the_promoted_trial(store: StudyStore) -> None:
    for number, seconds in enumerate((10.0, 20.0, 30.0)):
        write_trial(store, number, "finished", seconds, 2.0)
    store.write(make_promotion("trial-1"))
    costs = past_costs(store)
    assert costs is not None
    assert costs.example == pytest.approx(20.0 / 64)


def test_the_latest_start_is_the_one_to_expect(store: StudyStore) -> None:
    for number in range(3):
        write_trial(store, number, "finished", 10.0, 2.0)
    for began, first_score in ((1000.0, 1030.0), (2000.0, 2012.0), (3000.0, None)):  # the last one scored nothing yet
        store.write(make_session(began, 100.0))
        store.write(make_worker_call("trial-0", 4, began + 1, began + 5))
        if first_score:
            store.write(make_worker_call("trial-0", 4, began + 2, first_score, "search"))
    costs = past_costs(store)
    assert costs is not None
    assert costs.start == pytest.approx(12.0)
