"""Whatever lies in a base model's folder, a checkpoint holds the model's own tensors alone."""

from pathlib import Path

import pytest
from safetensors import safe_open

from bench.architectures import ARCHITECTURES, Architecture, make_model
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
