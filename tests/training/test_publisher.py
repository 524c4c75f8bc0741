"""Checkpoints are saved while training goes on, are those of their step, and errors reach their own run."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mathsft.config.load import apply_overrides
from mathsft.data.weights import fingerprint
from mathsft.errors import ErrorKind, UserError
from mathsft.publication import Publication, heard, stamps_of
from mathsft.records import Checkpoint, Diverged, Run
from mathsft.training import trained as trained_module
from mathsft.training import trainer as trainer_module
from mathsft.training.state import are_finite, save_published
from mathsft.training.trainer import Trainer
from mathsft.worker_settings import WorkerSettings
from tests.build import make_plan, make_trial
from tests.training import settled
from tests.training.published import curve

MakeModel = Callable[..., Path]
MakeSettings = Callable[..., WorkerSettings]
PLAN = make_plan(40, (0.4, 1.0))


@pytest.fixture
def settings(make_model: MakeModel, make_settings: MakeSettings) -> WorkerSettings:
    return make_settings(make_model(tied=True))


def run_of(settings: WorkerSettings, number: int = 0) -> Run:
    run = make_trial(number, plan=PLAN)
    return replace(run, experiment=apply_overrides(settings.experiment, run.overrides))


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let every save wait until the event is set, at the latest when the body ends."""
    may_save = threading.Event()

    def save(*arguments: Any) -> None:
        assert may_save.wait(60)
        save_published(*arguments)

    monkeypatch.setattr(trained_module, "save_published", save)
    try:
        yield may_save
    finally:
        may_save.set()


def test_training_goes_on_while_weights_are_saved_and_they_are_those_of_their_step(
    settings: WorkerSettings, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, layout = run_of(settings), settings.layout
    expected = settled.Trainer(replace(settings, layout=type(layout)(tmp_path / "undisturbed")))
    steps = run.eval_steps
    undisturbed = [expected.advance(run, step).fingerprint for step in steps]
    trainer = Trainer(settings)
    told = [layout.publication(run.name, step) for step in steps]
    with held(monkeypatch) as may_save:
        first = trainer.advance(run, steps[0])
        assert isinstance(first, Checkpoint) and first.fingerprint == ""
        advanced = threading.Thread(target=trainer.advance, args=(run, steps[1]))
        advanced.start()
        while len(curve(layout.root, run.name)) < steps[1]:  # all steps are taken before anything is saved
            advanced.join(0.01)
        assert not layout.checkpoint(run.name, steps[0]).exists()
        assert advanced.is_alive(), "two checkpoints at once would need the memory of two"
        may_save.set()
        advanced.join()
        trainer._publisher.wait()
    for step, path, known in zip(steps, told, undisturbed, strict=True):
        folder, publication = layout.checkpoint(run.name, step), heard(path)
        assert publication == Publication(known, stamps_of(folder))
        assert fingerprint(folder) == known, "not the weights of a later step"


def test_an_error_of_saving_is_the_runs_next_error_and_no_other_runs(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other, layout = run_of(settings), run_of(settings, 1), settings.layout
    trainer = Trainer(settings)

    def save(base: Any, tensors: Any, folder: Path) -> None:
        if run.name in folder.parts and folder.name.endswith("04"):
            raise UserError(f"{folder}: the disk is full; free 5 bytes")
        if run.name in folder.parts:
            raise OSError(errno.EIO, "Input/output error")
        save_published(base, tensors, folder)

    monkeypatch.setattr(trained_module, "save_published", save)
    trainer.advance(run, 4)
    trainer._publisher.wait()
    with pytest.raises(UserError, match=r"step-000004: the disk is full; free 5 bytes"):
        trainer.advance(run, 5)
    told = heard(layout.publication(run.name, 4))
    assert told is not None and (told.error_kind, told.fingerprint) == (ErrorKind.USER, "")
    trainer.advance(other, 2)
    trainer.advance(run, 3)
    trainer._publisher.wait()
    told = heard(layout.publication(run.name, 3))
    assert told == Publication(error="OSError: [Errno 5] Input/output error", error_kind=ErrorKind.CODE)
    trainer.advance(other, 4)
    trainer._publisher.wait()
    assert (published := heard(layout.publication(other.name, 4))) is not None and not published.error
    assert not layout.checkpoint(run.name, 4).exists()


def test_weights_that_overflow_in_the_engine_are_not_published(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "are_finite", lambda tensors, dtype: False)
    run = run_of(settings)
    outcome = Trainer(settings).advance(run, 2)
    assert isinstance(outcome, Diverged) and "a weight is not finite at step 2" in outcome.reason
    assert not settings.layout.checkpoint(run.name, 2).exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_is_found_in_any_tensor(bad: float) -> None:
    tensors = [torch.zeros(3, 5), torch.full((7,), 1e38, dtype=torch.bfloat16)]
    assert are_finite(tensors, torch.float32)
    for tensor in tensors:
        kept, tensor.view(-1)[-1] = tensor.view(-1)[-1].clone(), bad
        assert not are_finite(tensors, torch.float32)
        tensor.view(-1)[-1] = kept
    largest = torch.full((2,), torch.finfo(torch.float32).max)
    assert are_finite([largest], torch.float32) and not are_finite([largest], torch.bfloat16), "it rounds to infinity"
