"""A trial starts at once: nothing is tokenised twice, by no trial of a worker and by no worker after the first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mathsft.data import encoded_cache
from mathsft.training import trainer as trainer_module
from mathsft.training.trainer import Trainer
from mathsft.worker_settings import WorkerSettings
from tests.build import make_plan, make_trial


def test_data_are_read_once_per_worker_and_tokenised_once_for_all(
    make_model: Callable[..., Path], make_settings: Callable[..., WorkerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(make_model())
    run = make_trial(plan=make_plan(8))
    trainer = Trainer(settings)
    expected = trainer.advance(run, 2).fingerprint

    def no_work(*args: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(encoded_cache, "encode", no_work)
    assert Trainer(settings).advance(run, 2).fingerprint == expected
    monkeypatch.setattr(trainer_module, "load_pools", no_work)
    assert trainer.advance(replace(run, name="trial-1"), 2).fingerprint == expected
