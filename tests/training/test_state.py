import errno
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mathsft.errors import UserError
from mathsft.training.state import BaseModel, load_base, publish
from tests.training.published import names_in

MakeModel = Callable[..., Path]
IDS = torch.arange(1, 30)[None]


@torch.no_grad()
def shake(base: BaseModel) -> dict[str, torch.Tensor]:
    """Change the model's weights and return them."""
    for parameter in base.model.parameters():
        parameter.add_(0.01)
    return {name: parameter.detach() for name, parameter in base.model.named_parameters()}


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_published_weights_load_back_as_the_same_model(make_model: MakeModel, tmp_path: Path, kind: str, tied: bool) -> None:
    source = make_model(kind, tied)
    base = load_base(source, "sdpa")
    publish(base, shake(base), tmp_path / "step-000001")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step-000001").eval()
    torch.testing.assert_close(logits(loaded), logits(base.model), rtol=1e-5, atol=1e-5)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert set(load_file(tmp_path / "step-000001" / "model.safetensors")) == set(load_file(source / "model.safetensors"))
    assert AutoTokenizer.from_pretrained(tmp_path / "step-000001")("2 + 2") == AutoTokenizer.from_pretrained(source)("2 + 2")
    assert (tmp_path / "step-000001" / "config.json").read_bytes() == (source / "config.json").read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_published_in_the_dtype_of_the_base_whatever_precision_they_are_trained_in(
    make_model: MakeModel, tmp_path: Path, tied: bool
) -> None:
    source = make_model("qwen2", tied, torch.bfloat16)
    base = load_base(source, "sdpa")
    weights = shake(base)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    publish(base, weights, tmp_path / "step-000001")
    published, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "step-000001", source))
    assert set(published) == set(original)
    for name, tensor in published.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, weights[name].bfloat16())


def test_an_earlier_checkpoint_and_leftovers_are_replaced_whole(make_model: MakeModel, tmp_path: Path) -> None:
    base = load_base(make_model(), "sdpa")
    folder = tmp_path / "run" / "step-000003"
    for name in ("step-000003", ".step-000003.partial", ".step-000003.replaced"):
        (folder.parent / name).mkdir(parents=True)
        (folder.parent / name / "stale").write_text("from an earlier life")
    publish(base, base.weights, folder)
    assert names_in(folder.parent) == ["step-000003"]
    assert not (folder / "stale").exists()
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_line_and_leaves_the_earlier_checkpoint(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    base = load_base(make_model(), "sdpa")
    folder = tmp_path / "run" / "step-000003"
    publish(base, base.weights, folder)
    before = (folder / "model.safetensors").read_bytes()

    def fail(*args: object) -> None:
        raise error

    weights = shake(base)
    # The configuration is copied last: by then the weights are written.
    monkeypatch.setattr(shutil, "copyfile", fail)
    num_bytes = sum(weight.nbytes for weight in base.weights.values())
    with pytest.raises(UserError, match=f"step-000003: the disk is full; free {num_bytes:,} bytes"):
        publish(base, weights, folder)
    assert names_in(folder.parent) == ["step-000003"]
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_write_that_breaks_off_leaves_nothing_and_safetensors_still_tells_the_error_number(
    make_model: MakeModel, tmp_path: Path
) -> None:
    base = load_base(make_model(), "sdpa")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        # The kernel's own refusal, in the words that disk_full_as_user_error reads.
        with pytest.raises(SafetensorError, match=rf"\(os error {errno.EFBIG}\)"):
            publish(base, base.weights, tmp_path / "run" / "step-000003")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path / "run") == []


def test_a_model_that_changes_its_logits_after_the_head_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="Gemma2ForCausalLM, which changes its logits after the head"):
        load_base(make_model("gemma2"), "sdpa")
