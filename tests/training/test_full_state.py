"""Full states: what is saved comes back to the bit, what is not whole is not believed, a broken-off run goes on exactly."""

import logging
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mathsft.footprint import full_state_bytes
from mathsft.layout import StudyLayout
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.training import full_state
from mathsft.training.full_state import FullState, SavePace, discard_full_state, load_full_state, save_full_state
from mathsft.worker_settings import WorkerSettings
from tests.build import make_plan, make_trial
from tests.training.published import curve, names_in
from tests.training.settled import Trainer

NUM_STEPS = 10
RUN = make_trial(plan=make_plan(4 * NUM_STEPS))


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the trainer handles it."""


@pytest.fixture
def settings(make_model: Callable[..., Path], make_settings: Callable[..., WorkerSettings]) -> WorkerSettings:
    return make_settings(make_model(tied=True))


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SavePace, "is_due", lambda self, seconds: True)


STATE = "full-state.safetensors"


def some_state(step: int = 7) -> FullState:
    flat = torch.arange(24.0)  # a TrainingStep may give views into one buffer
    tensors = {
        "a": flat[:12].view(3, 4),
        "b": flat[12:].view(4, 3).T,
        "bf16": torch.randn(5).bfloat16(),
        "n": torch.tensor(3.0),
    }
    return FullState("identity", step, 1234, {**tensors, "nan": torch.tensor([float("nan"), float("-inf"), -0.0])})


def bits(state: FullState | None) -> object:
    assert state is not None
    tensors = {name: tensor.reshape(-1).view(torch.uint8).tolist() for name, tensor in state.tensors.items()}
    return replace(state, tensors=tensors)


def undisturbed(settings: WorkerSettings) -> tuple[str, list[dict[str, float]]]:
    alone = replace(settings, layout=StudyLayout(settings.layout.root.with_name("undisturbed")))
    return Trainer(alone).advance(RUN, NUM_STEPS).fingerprint, curve(alone.layout.root)


def test_a_state_comes_back_to_the_bit_and_the_newest_replaces_the_older(tmp_path: Path) -> None:
    save_full_state(tmp_path / STATE, some_state(6))
    state = some_state()
    save_full_state(tmp_path / STATE, state)
    assert names_in(tmp_path) == [STATE]
    assert bits(load_full_state(tmp_path / STATE, "identity", 7, state.tensors)) == bits(state)
    discard_full_state(tmp_path / STATE)
    assert names_in(tmp_path) == []
    assert load_full_state(tmp_path / STATE, "identity", 7, state.tensors) is None


def test_a_state_of_anything_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = some_state()
    save_full_state(tmp_path / STATE, state)
    others = [
        {**state.tensors, "c": torch.zeros(1)},
        {name: tensor for name, tensor in state.tensors.items() if name != "a"},
        {**state.tensors, "a": torch.zeros(4, 3)},
        {**state.tensors, "a": torch.zeros(3, 4).double()},
    ]
    assert all(load_full_state(tmp_path / STATE, "identity", 7, other) is None for other in others)
    assert load_full_state(tmp_path / STATE, "another run", 7, state.tensors) is None
    assert load_full_state(tmp_path / STATE, "identity", 6, state.tensors) is None
    monkeypatch.setattr(full_state, "FORMAT", "mathsft full state 2")
    assert load_full_state(tmp_path / STATE, "identity", 7, state.tensors) is None


@hypothesis_settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_no_flipped_bit_and_no_cut_is_believed(
    tmp_path_factory: pytest.TempPathFactory, share: float, bit: int, cut: bool
) -> None:
    folder, state = tmp_path_factory.mktemp("run"), some_state()
    save_full_state(folder / STATE, state)
    content = bytearray((folder / STATE).read_bytes())
    place = int(share * len(content))
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    (folder / STATE).write_bytes(content)
    loaded = load_full_state(folder / STATE, "identity", 7, state.tensors)
    # A flip in the header's padding or in how it is spelt may mean the same: then every bit of the state is there.
    assert loaded is None or (not cut and bits(loaded) == bits(state))


def test_a_state_that_cannot_be_written_is_logged_and_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_full_state(tmp_path / STATE, some_state(6))

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(full_state, "save_file", fail)
    save_full_state(tmp_path / STATE, some_state(7))
    assert "the state of step 7 cannot be saved (No space left on device)" in caplog.text
    assert names_in(tmp_path) == [STATE]
    assert load_full_state(tmp_path / STATE, "identity", 7, some_state().tensors) is not None


@pytest.mark.parametrize("goes_on", ["load", "discard"])
def test_what_a_kill_leaves_of_a_save_is_gone_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: str
) -> None:
    save_full_state(tmp_path / STATE, some_state(6))

    def broken_off(tensors: object, path: Path, metadata: object) -> None:
        path.with_name(".tmpQ3xYz1").write_bytes(b"half")  # as safetensors writes, renaming it to its target
        raise Killed

    with monkeypatch.context() as patches, pytest.raises(Killed):
        patches.setattr(full_state, "save_file", broken_off)
        save_full_state(tmp_path / STATE, some_state(7))
    assert len(names_in(tmp_path)) == 2
    if goes_on == "load":
        assert load_full_state(tmp_path / STATE, "identity", 7, some_state().tensors) is not None
    else:
        discard_full_state(tmp_path / STATE)
    assert names_in(tmp_path) == ([STATE] if goes_on == "load" else [])


def test_saving_takes_at_most_a_fiftieth_of_the_training() -> None:
    pace, trained, saving = SavePace(state_bytes=10**9), 0.0, 0.0
    for step in range(1000):
        trained += 1.0
        if pace.is_due(1.0):
            cost = 1.0 + step % 3
            saving += cost
            pace.saved(cost)
    assert 0.01 * trained < saving <= 0.02 * trained + 3
    small = SavePace(state_bytes=100)
    assert [small.is_due(0.4) for _ in range(3)] == [False, False, True]
    small.saved(1e-4)
    assert [small.is_due(0.4) for _ in range(3)] == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "call", "resumed_from"),
    [
        ("mathsft.training.trainer.save_full_state", 4, "step 3"),
        ("mathsft.training.full_state.save_file", 4, "step 3"),
        ("pathlib.Path.replace", 4, "step 3"),
        ("mathsft.training.full_state.save_file", 1, "the base weights"),
        ("mathsft.training.publisher.Publisher.start", 1, "step 10"),
    ],
)
def test_a_run_that_breaks_off_goes_on_to_the_same_bits(
    settings: WorkerSettings, save_always: None, caplog: pytest.LogCaptureFixture, target: str, call: int, resumed_from: str
) -> None:
    expected = undisturbed(settings)
    with pytest.MonkeyPatch.context() as patches:
        break_off_at(patches, target, call)
        with pytest.raises(Killed):
            Trainer(settings).advance(RUN, NUM_STEPS)
    run_dir = settings.layout.run(RUN.name)
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"run": "trial-0", "st')
    caplog.set_level(logging.INFO)
    assert (Trainer(settings).advance(RUN, NUM_STEPS).fingerprint, curve(settings.layout.root)) == expected
    assert f"10 steps from {resumed_from}, " in caplog.text
    assert names_in(run_dir) == [STATE, "metrics.jsonl", "step-000010"]


def break_off_at(patches: pytest.MonkeyPatch, target: str, call: int) -> None:
    """Have the target raise Killed instead of its call of that number."""
    original, calls = pkgutil.resolve_name(target), count(1)

    def wrapped(*args: object, **kwargs: object) -> object:
        if next(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    patches.setattr(target, wrapped)


def half_trained(settings: WorkerSettings, to_step: int = 5) -> Path:
    """Train to a step and return the folder with its state, as if the trainer had been killed then."""
    Trainer(settings).advance(RUN, to_step)
    return settings.layout.run(RUN.name)


def test_a_state_is_used_up_to_the_step_that_was_asked_for(settings: WorkerSettings, save_always: None) -> None:
    fingerprint, expected = undisturbed(settings)
    half_trained(settings)
    trainer = Trainer(settings)
    trainer.advance(RUN, 4)
    assert curve(settings.layout.root) == expected[:4]
    assert (trainer.advance(RUN, NUM_STEPS).fingerprint, curve(settings.layout.root)) == (fingerprint, expected)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["metrics lost", "metrics of other steps", "base weights", "data", "settings"])
def test_a_state_that_does_not_fit_what_lies_beside_it_is_not_used(
    settings: WorkerSettings, save_always: None, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    run_dir = half_trained(settings)
    metrics, model = run_dir / "metrics.jsonl", Path(settings.experiment.model.path) / "model.safetensors"
    lines = metrics.read_text().splitlines(keepends=True)
    if what == "metrics lost":
        metrics.write_text("".join(lines[:4]))
    elif what == "metrics of other steps":
        metrics.write_text("".join(lines[:4] + lines[3:]))
    elif what == "base weights":
        save_file({name: 2 * tensor for name, tensor in load_file(model).items()}, model, {"format": "pt"})
    elif what == "data":
        data = Path(settings.experiment.data.source)
        data.write_text(data.read_text().replace("So.", "Thus."))
    else:
        training = settings.experiment.training.model_copy(update={"weight_decay": 0.1})
        settings = replace(settings, experiment=settings.experiment.model_copy(update={"training": training}))
    caplog.set_level(logging.INFO)
    caplog.clear()
    checkpoint = Trainer(settings).advance(RUN, NUM_STEPS)
    assert "10 steps from the base weights" in caplog.text
    assert "is not used" in caplog.text or "does not match the run" in caplog.text
    assert (checkpoint.fingerprint, curve(settings.layout.root)) == undisturbed(settings)


def test_a_trainer_keeps_one_state(settings: WorkerSettings, save_always: None) -> None:
    trainer = Trainer(settings)
    runs = [replace(RUN, name=f"trial-{number}") for number in range(3)]
    folders = [settings.layout.run(run.name) for run in runs]

    def with_state() -> list[str]:
        return [folder.name for folder in folders if (folder / STATE).exists()]

    trainer.advance(runs[0], 5)
    assert with_state() == ["trial-0"]
    trainer.advance(runs[1], 0)
    assert with_state() == ["trial-0"]
    trainer.advance(runs[1], 5)
    assert with_state() == ["trial-1"]
    restarted = Trainer(settings)
    restarted.advance(runs[1], NUM_STEPS)
    assert with_state() == ["trial-1"]
    restarted.advance(runs[2], 1)
    assert with_state() == ["trial-2"]


def test_a_state_takes_what_is_predicted(
    make_settings: Callable[..., WorkerSettings], save_always: None, tmp_path: Path
) -> None:
    settings = make_settings(base_model_folder())
    path = half_trained(settings, to_step=1) / STATE
    num_parameters = sum(tensor.numel() for tensor in load_file(base_model_folder() / "model.safetensors").values())
    assert abs(path.stat().st_size / full_state_bytes(num_parameters) - 1) < 0.01
