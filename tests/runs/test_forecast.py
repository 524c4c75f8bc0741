"""What a study is predicted to cost."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy
import pytest
from safetensors.numpy import save_file

from mathsft.config.load import load_settings
from mathsft.data.pools import load_pools
from mathsft.data.quickstart import base_model_folder
from mathsft.records import Checkpoint, Plan, Run, Score
from mathsft.runs.forecast import START_SECONDS, Forecast, forecast, is_memory_short, model_size
from mathsft.store.book import Book
from mathsft.training.footprint import full_state_bytes
from mathsft.workers.placement import place
from tests.build import make_machine

Predict: TypeAlias = Callable[..., Forecast]


@pytest.fixture(autouse=True)
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathsft.runs.forecast.measured_flops", lambda: 5e10)


@pytest.fixture(scope="module")
def predict() -> Predict:
    """Predict what the quickstart costs with these settings; its problems, the same for all, are made once."""
    pools = load_pools(load_settings("quickstart", None, []).experiment.data)

    def predict(book: Book | None, *assignments: str, num_trainers: int = 1) -> Forecast:
        loaded = load_settings("quickstart", None, list(assignments))
        hardware = place(make_machine((0, 1), ()), loaded.experiment, Path(), "study").evaluator.settings.hardware
        return forecast(loaded.study, loaded.experiment, base_model_folder(), hardware, pools, book, num_trainers)

    return predict


def test_a_models_size_is_read_off_its_headers(tmp_path: Path) -> None:
    save_file({"a": numpy.zeros((3, 5), "float32"), "b": numpy.zeros(7, "float32")}, tmp_path / "model.safetensors")
    num_parameters, num_bytes = model_size(tmp_path)
    assert num_parameters == 22
    assert num_bytes > 88


def test_more_examples_and_trials_cost_more_time_and_disk(predict: Predict) -> None:
    plain, longer, more = predict(None), predict(None, "trial.num_examples=15360"), predict(None, "num_trials=40")
    assert START_SECONDS < plain.seconds < longer.seconds
    assert plain.seconds < more.seconds
    assert plain.disk_bytes < more.disk_bytes
    states_of_another_trainer = predict(None, num_trainers=2).disk_bytes - plain.disk_bytes
    assert states_of_another_trainer == 2 * full_state_bytes(plain.num_parameters)
    assert "matrix product" in plain.basis


def test_kept_checkpoints_are_in_the_final_runs_disk(predict: Predict) -> None:
    plain, all_kept = predict(None).final_disk, predict(None, "final.keep_every=1").final_disk
    every_third = predict(None, "final.keep_every=3").final_disk  # of eight: the third, the sixth, the last, the best
    assert (plain.num_kept, every_third.num_kept, all_kept.num_kept) == (2, 4, 8)
    assert plain.kept_bytes < every_third.kept_bytes < all_kept.kept_bytes < all_kept.most_bytes
    assert plain.most_bytes == all_kept.most_bytes


def test_memory_is_short_where_both_workers_do_not_fit_at_once() -> None:
    experiment = load_settings("quickstart", None, []).experiment
    assert is_memory_short(experiment, base_model_folder(), 2 * 2**30)
    assert not is_memory_short(experiment, base_model_folder(), 4 * 2**30)


def test_finished_trials_are_the_better_measure(book: Book, predict: Predict) -> None:
    plan = Plan(64, (1.0,), "search", 2, "last")
    counts = {"correct": 1, "wrong_answer": 1, "format_failure": 0, "ungraded": 0}
    for number, seconds in enumerate((10.0, 30.0, 20.0)):
        book.write(Run(f"trial-{number}", {}, plan, 0, "finished", 0.5))
        book.write(Checkpoint(f"trial-{number}", 4, "p", "f", timings={"train_seconds": seconds, "num_tokens": 9e9}))
        book.write(Score(f"trial-{number}", 4, "search", 2, counts, "f", "r", {"start_seconds": 99.0, "swap_seconds": 1.0}))
    predicted = predict(book, "num_trials=5")
    assert predicted.seconds == START_SECONDS + 2 * 20.0
    assert "3 trials" in predicted.basis
    assert predict(book, "num_trials=3").seconds == 0.0
