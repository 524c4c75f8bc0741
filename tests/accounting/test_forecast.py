"""What a study is predicted to take, given what its parts cost."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from mathsft.accounting.forecast import (
    FinalDisk,
    Footprint,
    Work,
    final_seconds,
    footprint,
    is_memory_short,
    model_size,
    study_time,
    work_left,
)
from mathsft.accounting.study_costs import MeanCosts
from mathsft.config.load import load_settings
from mathsft.footprint import full_state_bytes
from mathsft.store.study_store import StudyStore
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.workers.placement import Placement, place
from tests.build import make_machine, make_plan, make_run, make_score, make_trial

COSTS = MeanCosts(start=20.0, train=9.0, score=4.0, example=0.01, response=0.002)
NOTHING = Work(0, 0, 1, 0, 0)


def placed(num_cuda: int = 0, *assignments: str) -> Placement:
    experiment = load_settings("quickstart", None, list(assignments)).experiment
    return place(make_machine(cuda=[str(index) for index in range(num_cuda)]), experiment, Path(), "study")


@pytest.mark.parametrize(
    ("work", "num_cuda", "trials", "confirm", "horizon"),
    [
        (Work(20, 1000, 3, 0, 0), 0, 20 * 9.0, 2.0, 0.0),  # training hides scoring
        (Work(20, 1000, 3, 0, 0), 1, 20 * (9.0 + 4.0), 2.0, 0.0),  # in turns on one device
        (Work(20, 1000, 3, 0, 0), 3, 20 * 9.0 / 2, 2.0, 0.0),  # two trainers, one evaluator
        (Work(20, 1000, 3, 0, 0), 9, 20 * 4.0, 2.0, 0.0),  # scoring is the bottleneck
        (Work(0, 0, 3, 5000, 10_000), 0, 0.0, 0.0, 50.0),
        (Work(0, 0, 3, 5000, 40_000), 0, 0.0, 0.0, 80.0),
    ],
)
def test_time_follows_from_work_costs_and_placement(
    work: Work, num_cuda: int, trials: float, confirm: float, horizon: float
) -> None:
    time = study_time(work, COSTS, placed(num_cuda))
    assert (time.start, time.trials, time.confirm, time.horizon) == pytest.approx((20.0, trials, confirm, horizon))
    assert time.total == pytest.approx(20.0 + trials + confirm + horizon)


def test_several_evaluators_divide_the_scoring() -> None:
    experiment = load_settings("quickstart", None, []).experiment
    cuda = make_machine(cuda=[str(index) for index in range(8)])
    slow = replace(COSTS, score=40.0)
    for num_evaluators, trials, confirm in ((1, 40.0, 2.0), (2, 20.0, 1.0), (4, 10.0, 2.0 / 3)):
        placement = place(cuda, experiment, Path(), "study", evaluators=num_evaluators)
        time = study_time(Work(1, 1000, 3, 0, 0), slow, placement)
        assert (time.trials, time.confirm) == pytest.approx((trials, confirm)), "three finalists keep three busy"
    final = load_settings("quickstart", None, []).study.final
    of_final = [
        final_seconds(final, slow, place(cuda, experiment, Path(), "final", 1, evaluators=number), 10**6, 500)
        for number in (1, 3)
    ]
    assert of_final[0] - of_final[1] == pytest.approx(9 * 10**6 * 0.002 * 2 / 3 + 2 * 500 * 0.002)


def test_a_study_with_nothing_left_starts_nothing() -> None:
    assert study_time(NOTHING, COSTS, placed()).total == 0.0


def test_a_final_run_is_trained_while_it_is_watched_then_tested() -> None:
    settings = load_settings("quickstart", None, []).study.final.model_copy(
        update={"num_examples": 4000, "eval_points": (0.5, 1.0)}  # and the baseline
    )
    after = (1000 + 3 * 500) * 0.002  # the last validation score, and three checkpoints on test
    assert final_seconds(settings, COSTS, placed(), 1000, 500) == pytest.approx(20.0 + 40.0 + after)
    slow = replace(COSTS, response=0.02)
    assert final_seconds(settings, slow, placed(), 1000, 500) == pytest.approx(20.0 + 3 * 20.0 + 10 * after)
    in_turns = placed(1)
    assert final_seconds(settings, COSTS, in_turns, 1000, 500) == pytest.approx(20.0 + 40.0 + 6.0 + after)


def test_a_new_study_has_all_its_work_left() -> None:
    config = load_settings("quickstart", None, []).study
    # Rounds of 8, 4 and 2 finalists, and trial 0 in each of them.
    assert work_left(config, 875, 1, None) == Work(20, 9 * 125 + 5 * 250 + 3 * 500, 3, 0, 0)
    assert work_left(config, 437, 2, None).num_confirm_responses == pytest.approx(9 * 125 + 5 * 250 + 3 * 500, rel=0.01)
    assert work_left(config.model_copy(update={"num_trials": 2}), 875, 1, None).num_confirm_responses == 2 * 875
    longer = load_settings("quickstart", None, ["horizon.num_examples=384"]).study
    assert work_left(longer, 875, 1, None) == Work(20, 3875, 3, 5 * (384 + 1536), 10 * 875)


def test_what_the_book_has_is_not_left(store: StudyStore) -> None:
    config = load_settings("quickstart", None, ["horizon.num_examples=384"]).study
    plan = make_plan(1536)
    for number, state in enumerate(("finished", "pruned", "diverged", "failed", "running")):
        store.write(make_trial(number, plan=plan, state=state, value=0.5))
    store.write(make_run("horizon-384-+0-at-0.001", plan=plan, value=0.5))
    store.write(make_score("trial-0", 48, "confirm:0-125", 125, 125))
    assert work_left(config, 875, 1, store) == Work(17, 3875 - 125, 3, round(0.9 * 9600), round(0.9 * 8750))


# ---- disk and memory


def predict(*assignments: str, num_trainers: int = 1) -> Footprint:
    loaded = load_settings("quickstart", None, list(assignments))
    hardware = placed(0, *assignments).evaluators[0].settings.worker_device
    return footprint(loaded.study, loaded.experiment, base_model_folder(), hardware, num_trainers)


def test_a_models_size_is_read_off_its_headers(tmp_path: Path) -> None:
    save_file({"a": numpy.zeros((3, 5), "float32"), "b": numpy.zeros(7, "float32")}, tmp_path / "model.safetensors")
    size = model_size(tmp_path)
    assert (size.num_parameters, size.dimensions) == (22, None)
    assert size.weight_bytes > 88
    known = model_size(base_model_folder()).dimensions
    assert known is not None and known.num_layers == 4


def test_more_trials_and_trainers_cost_more_disk() -> None:
    plain = predict()
    assert plain.disk_bytes < predict("num_trials=40").disk_bytes
    states_of_another_trainer = predict(num_trainers=2).disk_bytes - plain.disk_bytes
    assert states_of_another_trainer == 2 * full_state_bytes(plain.num_parameters)


def test_kept_checkpoints_are_in_the_final_runs_disk() -> None:
    def disk(*assignments: str) -> FinalDisk:
        return predict(*assignments).final_disk

    plain, all_kept = disk(), disk("final.keep_every=1")
    every_third = disk("final.keep_every=3")  # of eight: the third, the sixth, the last, the best
    assert (plain.num_kept, every_third.num_kept, all_kept.num_kept) == (2, 4, 8)
    assert plain.kept_bytes < every_third.kept_bytes < all_kept.kept_bytes < all_kept.most_bytes
    assert plain.most_bytes == all_kept.most_bytes


def test_memory_is_short_where_both_workers_do_not_fit_at_once() -> None:
    experiment = load_settings("quickstart", None, []).experiment
    assert is_memory_short(experiment, model_size(base_model_folder()), 2 * 2**30)
    assert not is_memory_short(experiment, model_size(base_model_folder()), 4 * 2**30)
