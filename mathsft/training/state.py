"""The weights: loads the base model once, publishes checkpoints by rename; trains nothing.

Only safetensors are read and written, and no code that lies beside a model is run.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mathsft.errors import UserError, told_if_disk_full
from mathsft.training.model.attention import choose_attention
from mathsft.training.model.patches import apply_patches

_COPIED_SUFFIXES = {".json", ".txt", ".model", ".jinja"}
"""Of the base model's files: its configuration and its tokenizer's, in any of the forms transformers knows."""


@dataclass(frozen=True)
class BaseModel:
    """The model being trained, with the base weights it can be put back to.

    model's parameters are those of the run that was started last; weights holds the base weights on the host, tied ones
    once, in the base checkpoint's own dtype; attention is the kind that the model uses.
    """

    folder: Path
    model: PreTrainedModel
    weights: dict[str, Tensor]
    attention: str


def load_base(folder: Path, attention: str) -> BaseModel:
    """Load the model into host memory, with this attention or one that the model can have.

    Raises UserError where its logits are not those of its head alone.
    """
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, local_files_only=True)
    weights = {name: tensor.clone() for name, tensor in _untied(model).items()}
    model.float()
    # Training mode adds nothing but dropout, which would make a run depend on more than its seed.
    model.eval()
    _check_head(model, folder)
    apply_patches(model)
    return BaseModel(folder, model, weights, choose_attention(model, attention))


def set_gradient_checkpointing(base: BaseModel, enabled: bool) -> None:
    """Make the layers compute their activations again in the backward pass, or keep them; UserError if the model cannot."""
    if not enabled:
        base.model.gradient_checkpointing_disable()
        return
    if not base.model.supports_gradient_checkpointing:
        raise UserError(
            f"training.gradient_checkpointing: {type(base.model).__name__} does not support it; leave it false and lower "
            "training.token_budget_tokens instead"
        )
    base.model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in base.model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # It checkpoints in training mode only; what is inside stays in evaluation mode, without dropout.
            module.training = True


def rounded(base: BaseModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return on the host what is published of these weights: rounded to the base model's dtype, with what is not trained."""
    return {name: weights.get(name, base_weight).to("cpu", base_weight.dtype) for name, base_weight in base.weights.items()}


def publish(base: BaseModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write these weights, rounded, as a Hugging Face folder, whole or not at all; replaces an earlier one.

    Raises UserError if the disk is full.
    """
    tensors = rounded(base, weights)
    partial = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with told_if_disk_full(folder, f"{num_bytes:,} bytes for this checkpoint"):
        try:
            base.model.save_pretrained(partial, state_dict=tensors)
            # After save_pretrained, whose config.json names the dtype of training.
            for file in sorted(base.folder.iterdir()):
                if file.suffix in _COPIED_SUFFIXES and not file.name.endswith(".safetensors.index.json"):
                    shutil.copyfile(file, partial / file.name)
        except (OSError, SafetensorError):
            shutil.rmtree(partial, ignore_errors=True)
            raise
    # A folder with files in it cannot be renamed over: the old one makes way first.
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _untied(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the model's own tensors by name, not copies, each tied one under a single name."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}


@torch.no_grad()
def _check_head(model: PreTrainedModel, folder: Path) -> None:
    """Refuse architectures that scale or cap their logits after the head: the loss computes them from the head alone."""
    ids_BT = torch.arange(2)[None]
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    head_BTV = model.get_output_embeddings()(model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state)
    if not torch.allclose(logits_BTV, head_BTV, rtol=1e-4, atol=1e-4):
        raise UserError(
            f"model.path: {folder} is a {type(model).__name__}, which changes its logits after the head; "
            "choose a model of the Llama or Qwen2 kind"
        )
