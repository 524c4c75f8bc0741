"""Loads the base model and publishes checkpoints by rename.

It reads and writes safetensors only, and never runs code from a model's folder.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mathsft.data.weight_tensors import MODEL_FILE_SUFFIXES
from mathsft.errors import UserError, disk_full_as_user_error
from mathsft.footprint import ModelSize
from mathsft.training.host_buffers import HostBuffers
from mathsft.training.model.attention import choose_attention
from mathsft.training.model.patches import apply_patches


@dataclass(frozen=True)
class BaseModel:
    """The model that is trained, together with its base weights.

    The parameters of model and the buffers belong to the run that started last. weights are the base weights on the host,
    tied ones once, in the dtype of the base checkpoint. attention is the implementation that the model uses.
    """

    folder: Path
    model: PreTrainedModel
    weights: dict[str, Tensor]
    attention: str
    buffers: HostBuffers = field(default_factory=HostBuffers)

    @property
    def size(self) -> ModelSize:
        """Return the sizes of the base model."""
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        return ModelSize.of(self.model.config, shapes, sum(weight.nbytes for weight in self.weights.values()))


def load_base(folder: Path, attention: str, *, numpy_products: bool = False) -> BaseModel:
    """Load the model into host memory, with this attention where possible, and with numpy's products or torch's.

    Raises UserError if the model changes its logits after the output head.
    """
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, local_files_only=True)
    tied = model.all_tied_weights_keys
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in tied}
    model.float()
    # Training mode would only add dropout, whose random numbers do not follow from the run's seed.
    model.eval()
    _check_head(model, folder)
    apply_patches(model, numpy_products=numpy_products)
    return BaseModel(folder, model, weights, choose_attention(model, attention))


def set_gradient_checkpointing(base: BaseModel, enabled: bool) -> None:
    """Switch gradient checkpointing on or off. Raises UserError if the model does not support it."""
    if not enabled:
        base.model.gradient_checkpointing_disable()
        return
    if not base.model.supports_gradient_checkpointing:
        raise UserError(
            f"training.gradient_checkpointing: {type(base.model).__name__} does not support it; set it to false and lower "
            "training.token_budget_tokens instead"
        )
    base.model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in base.model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # The layer checkpoints in training mode only; its submodules stay in evaluation mode, without dropout.
            module.training = True


def tensors_to_publish(base: BaseModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors to publish: the weights rounded to the base's dtype, where they are, and tensors that do not train.

    A weight that needs no rounding is not copied.
    """
    return {name: weights.get(name, base_weight).to(base_weight.dtype) for name, base_weight in base.weights.items()}


def are_finite(tensors: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Return whether all values are finite in this dtype; the result is the only value that leaves the tensors' device."""
    # Both extremes are NaN if any value is, and aminmax is six times faster than isfinite on each value.
    extremes = [torch.stack(torch.aminmax(tensor)).to(dtype) for tensor in tensors]
    return all(bool(torch.stack(on_device).isfinite().all()) for on_device in _by_device(extremes))


def _by_device(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    grouped: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        grouped.setdefault(tensor.device, []).append(tensor)
    return grouped.values()


def host_copy(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the host; those that are the trained weights themselves are copied, since training goes on."""
    return {
        name: tensor.clone() if tensor.device.type == "cpu" and tensor is weights.get(name) else tensor.to("cpu")
        for name, tensor in tensors.items()
    }


def publish(base: BaseModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Publish these weights, rounded, in this thread; see `save_published`."""
    save_published(base, host_copy(tensors_to_publish(base, weights), weights), folder)


def save_published(base: BaseModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write these tensors as a Hugging Face folder that a rename makes visible as a whole; replace an earlier one.

    Raises UserError if the disk is full.
    """

    def write(partial: Path) -> None:
        base.model.save_pretrained(partial, state_dict=dict(tensors))
        # This overwrites the config.json of save_pretrained, which names the training dtype.
        for file in sorted(base.folder.iterdir()):
            if file.suffix in MODEL_FILE_SUFFIXES and not file.name.endswith(".safetensors.index.json"):
                shutil.copyfile(file, partial / file.name)

    publish_folder(write, folder, sum(tensor.nbytes for tensor in tensors.values()))


def publish_folder(write: Callable[[Path], None], folder: Path, num_bytes: int) -> None:
    """Make a folder visible as a whole: `write` fills another one, which is then renamed; an earlier one is replaced.

    Raises UserError if the disk is full; num_bytes is what the folder needs.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    with disk_full_as_user_error(folder, f"{num_bytes:,} bytes for this checkpoint"):
        try:
            write(partial)
        except (OSError, SafetensorError):
            shutil.rmtree(partial, ignore_errors=True)
            raise
    # A rename cannot replace a folder that has files, so the old folder is renamed first.
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


@torch.no_grad()
def _check_head(model: PreTrainedModel, folder: Path) -> None:
    """Raise UserError for a model that scales or caps its logits after the head, because the loss only applies the head."""
    ids_BT = torch.arange(2)[None]
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    head_BTV = model.get_output_embeddings()(model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state)
    if not torch.allclose(logits_BTV, head_BTV, rtol=1e-4, atol=1e-4):
        raise UserError(
            f"model.path: {folder} is a {type(model).__name__}, which changes its logits after the head; "
            "choose a model of the Llama or Qwen2 kind"
        )
