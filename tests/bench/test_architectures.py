"""Whatever lies in a base model's folder, a checkpoint holds the model's own tensors alone."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from safetensors import safe_open

from bench import architectures
from bench.architectures import ARCHITECTURES, Architecture, Checked, checked, make_model
from mathsft.errors import StudyFailedError, UserError
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.training.state import load_base, publish


def published_shapes(architecture: Architecture, folder: Path) -> dict[str, list[int]]:
    make_model(architecture, folder / "base")
    base = load_base(folder / "base", "sdpa")
    publish(base, base.weights, folder / "published")
    with safe_open(folder / "published" / "model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - the file is no mapping


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Llama, stray rotary_emb.inv_freq", "Llama"),
        ("Llama, shards beside consolidated", "Llama"),
        ("GPT-2, hub layout", "GPT-2"),
    ],
)
def test_what_a_checkpoint_holds_does_not_depend_on_the_base_folders_layout(tmp_path: Path, name: str, plain: str) -> None:
    given, expected = (published_shapes(ARCHITECTURES[kind], tmp_path / kind) for kind in (name, plain))
    assert given == expected
    assert len(expected) > 10


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_model_can_be_made(tmp_path: Path, name: str) -> None:
    make_model(ARCHITECTURES[name], tmp_path)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UserError("vLLM computes another function for a Llama"), "another function"),
        (UserError("…; Set evaluation.load to new_engine"), "keeps old weights"),
        (UserError("changes its logits"), "refused"),
        (StudyFailedError("died"), "failed"),
    ],
)
def test_an_error_of_a_check_among_several_is_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str
) -> None:
    async def refuse(study: object) -> None:
        raise ExceptionGroup("of the engines", [error])

    make_model(ARCHITECTURES["Llama"], tmp_path / "model")
    monkeypatch.setattr(architectures, "check_engine", refuse)
    monkeypatch.setattr(StudyWorkers, "started", lambda *arguments: nullcontext())
    assert checked(tmp_path / "model", tmp_path / "study", "swap") == Checked(outcome, str(error))
