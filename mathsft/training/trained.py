"""Decides which parameters of a run's model train, and what its checkpoints hold: one class for each training.method.

It is the only file that imports peft, whose modules take the place of adapted layers in the loaded model. Layers of other
kinds (attention over packed rows, patches for a CPU) call them like the layers before.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mathsft.config.schema import LoraSettings, TrainingSettings
from mathsft.data.models import hub_id
from mathsft.data.weights import ADAPTER_FILE, ADAPTER_PREFIX, BASE_FINGERPRINT
from mathsft.errors import UserError
from mathsft.footprint import ALL_LINEAR
from mathsft.publication import ADAPTER_CONFIG
from mathsft.seeds import derive_seed
from mathsft.training.base_copy import BaseCopy
from mathsft.training.state import BaseModel, publish_folder, save_published, tensors_to_publish

_NAME = "default"
"""peft's name of a model's first adapter, which is part of the names of its parameters."""


class Trained(Protocol):
    """The weights of a run that train, in the model of `BaseModel`; a new object ends the earlier one."""

    def initial(self) -> Mapping[str, Tensor]:
        """Return the values with which a run starts, by the name of each parameter that trains."""
        ...

    def random_state(self, model: nn.Module, step: int, rank: int) -> AbstractContextManager[None]:
        """Make a pass over this model draw random numbers that follow from the run's seed, step and rank alone."""
        ...

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint by their names there, from the trained parameters; they may share memory."""
        ...

    def loaded(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all weights of a model with a checkpoint's tensors, by the names of this model's parameters."""
        ...

    def publish(self, published: Mapping[str, Tensor], folder: Path, base_copy: BaseCopy, model_path: str) -> None:
        """Write the tensors of a checkpoint as a folder, which a rename makes visible as a whole.

        model_path is the base model's name as the user gave it. Raises UserError if the disk is full.
        """
        ...


def choose_trained(base: BaseModel, training: TrainingSettings, dtype: torch.dtype, seed: int) -> Trained:
    """Prepare the model of base for a run with this kind of weights; all others get their base values, in the dtype.

    Raises UserError if the model has none of the layers that training.lora.targets names.
    """
    for name, module in [*base.model.named_modules()]:
        if isinstance(module, LoraLayer):
            base.model.set_submodule(name, module.get_base_layer())
    if hasattr(base.model, "peft_config"):  # peft's note about the adapters in a model
        del base.model.peft_config
    if training.method == "lora":
        return _AdapterWeights(base, training.lora, dtype, seed)
    return _AllWeights(base)


class _AllWeights:
    """Full fine-tuning: all weights train, and a checkpoint is a Hugging Face folder with all of them."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        base.model.requires_grad_(True)

    def initial(self) -> Mapping[str, Tensor]:
        return self._base.weights

    def random_state(self, model: nn.Module, step: int, rank: int) -> AbstractContextManager[None]:
        return nullcontext()

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return tensors_to_publish(self._base, weights)

    def loaded(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(published)

    def publish(self, published: Mapping[str, Tensor], folder: Path, base_copy: BaseCopy, model_path: str) -> None:
        save_published(self._base, published, folder)


class _AdapterWeights:
    """LoRA (arXiv:2106.09685): an adapter trains, and a checkpoint is a PEFT folder with the adapter alone, in fp32."""

    def __init__(self, base: BaseModel, lora: LoraSettings, dtype: torch.dtype, seed: int) -> None:
        self._base, self._lora, self._seed = base, lora, seed
        base_parameters = dict(base.model.named_parameters())
        for name, parameter in base_parameters.items():
            parameter.grad = None
            parameter.data = base.weights[name]
        targets = _target_names(base.model, lora.targets)
        self._targets = targets
        self._config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            fan_in_fan_out=_are_transposed(base.model, targets),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "adapter"))
            LoraModel(base.model, self._config, _NAME)
        base.model.eval()  # new layers are in training mode
        self._initial = {
            name: parameter.detach().float()
            for name, parameter in base.model.named_parameters()
            if parameter.requires_grad  # peft has frozen all others
        }
        if lora.dora:  # peft computes the lengths of rows in the base model's number format
            self._initial |= self._row_lengths()
        for name, parameter in base_parameters.items():
            parameter.data = base.weights[name].to(dtype)

    def initial(self) -> Mapping[str, Tensor]:
        return self._initial

    @contextmanager
    def random_state(self, model: nn.Module, step: int, rank: int) -> Iterator[None]:
        if not self._lora.dropout:
            yield
            return
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._seed, "dropout", step, rank))
            try:
                for layer in layers:
                    layer.train()
                yield
            finally:
                for layer in layers:
                    layer.eval()

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_name_in_file(name): weights[name].to("cpu", torch.float32, copy=True) for name in self._initial}

    def loaded(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = [name for name, _ in self._base.model.named_parameters()]
        values = {name: published[_name_in_file(name)] for name in self._initial}
        return {name: values[name] if name in values else self._base.weights[_base_name(name)] for name in parameters}

    def publish(self, published: Mapping[str, Tensor], folder: Path, base_copy: BaseCopy, model_path: str) -> None:
        base_fingerprint = base_copy.published(self._base)
        # The path of a local model says nothing on another computer.
        config = {
            **self._config.to_dict(),
            "inference_mode": True,
            "base_model_name_or_path": hub_id(model_path),
        }
        config["target_modules"] = self._targets  # peft makes a set of them, whose order differs between processes

        def write(partial: Path) -> None:
            partial.mkdir(parents=True)
            tensors = {name: tensor.contiguous() for name, tensor in published.items()}
            # One entry only: safetensors writes several in an order that differs each time.
            save_file(tensors, partial / ADAPTER_FILE, {BASE_FINGERPRINT: base_fingerprint})
            text = json.dumps(config, indent=2, sort_keys=True, default=str)
            (partial / ADAPTER_CONFIG).write_text(f"{text}\n", encoding="utf-8")

        publish_folder(write, folder, sum(tensor.nbytes for tensor in published.values()))

    def _row_lengths(self) -> dict[str, Tensor]:
        """Return DoRA's initial lengths of the rows of each adapted weight, in fp32."""
        lengths = {}
        for name in self._initial:
            module, magnitude, _ = name.partition(".lora_magnitude_vector.")
            if magnitude:
                weight = self._base.weights[f"{module}.weight"].float()
                lengths[name] = torch.linalg.vector_norm(weight, dim=0 if self._config.fan_in_fan_out else 1)
        return lengths


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers except the head, by name; GPT-2's are called Conv1D and store inputs x outputs."""
    head = model.get_output_embeddings()
    layers = ((name, module) for name, module in model.named_modules() if module is not head)
    return {name: module for name, module in layers if isinstance(module, nn.Linear | Conv1D)}


def _target_names(model: PreTrainedModel, targets: str) -> list[str]:
    """Return the last parts of the adapted layers' names, sorted."""
    available = sorted({name.rpartition(".")[2] for name in _linear_layers(model)})
    if targets == ALL_LINEAR:
        return available
    wanted = sorted({name.strip() for name in targets.split(",")})
    if unknown := [name for name in wanted if name not in available]:
        raise UserError(
            f"training.lora.targets: {unknown[0]!r} is no linear layer of a {type(model).__name__}; choose of "
            f"{', '.join(available)}, or {ALL_LINEAR}"
        )
    return wanted


def _are_transposed(model: PreTrainedModel, targets: list[str]) -> bool:
    layers = _linear_layers(model).items()
    return any(isinstance(layer, Conv1D) for name, layer in layers if name.rpartition(".")[2] in targets)


def _name_in_file(name: str) -> str:
    """Return the name in an adapter's file of a parameter that trains, as peft writes it."""
    plain = name.replace(f".lora_magnitude_vector.{_NAME}.weight", ".lora_magnitude_vector").replace(f".{_NAME}.", ".")
    return f"{ADAPTER_PREFIX}{plain}"


def _base_name(name: str) -> str:
    """Return the name that a base model's parameter has without adapters."""
    return name.replace(".base_layer.", ".")
