"""Reads the tensors of a published folder: a model's own, or those of a base model with an adapter merged into them.

`python -m mathsft.data.weight_tensors BASE ADAPTER TARGET` writes the merged model as a Hugging Face folder, in the base
model's number format; the driver runs it as a process because it must not import torch.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mathsft.data.weights import ADAPTER_FILE, ADAPTER_PREFIX, Adapter, fingerprint, is_adapter, read_adapter
from mathsft.errors import CheckpointError

MODEL_FILE_SUFFIXES = {".json", ".txt", ".model", ".jinja"}
"""Suffixes of the files beside a model's weights: its configuration and all files of its tokenizer."""
_PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
"""The tensors of an adapted layer, by the names of peft: r x in, out x r, and DoRA's lengths (out)."""


@dataclass(frozen=True)
class WholeWeights:
    """All weights of a model, in one or several files of a folder."""

    folder: Path

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name, from the headers of the files."""
        return {name: tuple(file.get_slice(name).get_shape()) for file, name in self._files_and_names()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and values of each tensor, one at a time, so that there is never a second copy of all weights."""
        return ((name, file.get_tensor(name)) for file, name in self._files_and_names())

    def _files_and_names(self) -> Iterator[tuple[Any, str]]:
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                yield from ((file, name) for name in file.keys())  # noqa: SIM118 - the file is not a mapping


@dataclass(frozen=True)
class AdaptedWeights:
    """A base model's weights with an adapter; `tensors` merges it into them, in fp32."""

    base: WholeWeights
    folder: Path
    """The adapter's folder."""
    adapter: Adapter

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each merged tensor; raises CheckpointError if the adapter does not fit the base model."""
        shapes = self.base.shapes()
        for name, parts in self.parts.items():
            if problem := _misfit(parts, shapes.get(name, ()), self.adapter):
                raise CheckpointError(f"the adapter in {self.folder} does not fit the base model: {name}: {problem}")
        return shapes

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and values of each tensor, one at a time: those with an adapter in fp32, the others as they are."""
        for name, weight in self.base.tensors():
            yield name, self._merged(weight, self.parts[name]) if name in self.parts else weight

    @cached_property
    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The adapter's tensors of each adapted weight; raises CheckpointError for a tensor of another kind."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in WholeWeights(self.folder).tensors():
            part = next((part for part in _PARTS if name.endswith(f".{part}")), None)
            if part is None or not name.startswith(ADAPTER_PREFIX):
                raise CheckpointError(f"the adapter in {self.folder} has {name}, which is no part of a LoRA layer")
            weight_name = f"{name.removeprefix(ADAPTER_PREFIX).removesuffix(part)}weight"
            parts.setdefault(weight_name, {})[part] = tensor
        return parts

    def _merged(self, weight: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return W + s B A; for DoRA each row of it with the trained length (arXiv:2402.09353, equation 5)."""
        lower, upper, *magnitude = (parts[part].float() for part in _PARTS if part in parts)
        rows = weight.float().t() if self.adapter.is_transposed else weight.float()
        merged = rows + self.adapter.scaling * (upper @ lower)
        if magnitude:
            merged *= (magnitude[0] / torch.linalg.vector_norm(merged, dim=1))[:, None]
        return (merged.t() if self.adapter.is_transposed else merged).contiguous()


def weights_in(folder: Path, base_folder: Path | None) -> WholeWeights | AdaptedWeights:
    """Return the weights of a published folder; those of an adapter belong to the base model's published folder.

    Raises CheckpointError if the base model's weights are missing or other ones than those of the adapter.
    """
    if not is_adapter(folder):
        return WholeWeights(folder)
    adapter = read_adapter(folder)
    if base_folder is None or not base_folder.is_dir():
        raise CheckpointError(f"the adapter in {folder} needs the base model's weights in {base_folder}, which are missing")
    files = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in base_folder.glob("*.safetensors"))
    if (actual := _fingerprint_of(base_folder, files)) != adapter.base_fingerprint:
        raise CheckpointError(
            f"the adapter in {folder} belongs to a base model with the fingerprint {adapter.base_fingerprint}, but "
            f"{base_folder} has {actual}"
        )
    return AdaptedWeights(WholeWeights(base_folder), folder, adapter)


@lru_cache(maxsize=1)
def _fingerprint_of(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the folder's fingerprint; it is computed again if a file's time or size changed."""
    return fingerprint(folder)


@contextmanager
def model_folder_of(weights: WholeWeights | AdaptedWeights, dtype: torch.dtype) -> Iterator[Path]:
    """Yield a Hugging Face folder with these weights: their own, or while the body runs one with the merged model."""
    if isinstance(weights, WholeWeights):
        yield weights.folder
        return
    with TemporaryDirectory(dir=weights.base.folder.parent, prefix=".merged.", suffix=".partial") as merged:
        write_merged(weights, Path(merged), dtype)
        yield Path(merged)


def write_merged(weights: AdaptedWeights, target: Path, dtype: torch.dtype | None) -> None:
    """Write the merged model as a Hugging Face folder, in the dtype; None: in the base model's own."""
    weights.shapes()
    dtypes = {name: dtype or tensor.dtype for name, tensor in weights.base.tensors()}
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(weights.base.folder.iterdir()):
        if file.suffix in MODEL_FILE_SUFFIXES and not file.name.endswith(".safetensors.index.json"):
            shutil.copyfile(file, target / file.name)
    tensors = {name: tensor.to(dtypes[name]) for name, tensor in weights.tensors()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _misfit(parts: Mapping[str, Tensor], shape: tuple[int, ...], adapter: Adapter) -> str:
    """Return why the adapter's tensors do not fit a weight of this shape; empty if they do."""
    if len(shape) != 2:
        return "the base model has no such matrix"
    num_outputs, num_inputs = reversed(shape) if adapter.is_transposed else shape
    expected: dict[str, tuple[int, ...]] = {
        _PARTS[0]: (adapter.rank, num_inputs),
        _PARTS[1]: (num_outputs, adapter.rank),
    }
    expected |= {_PARTS[2]: (num_outputs,)} if adapter.is_dora else {}
    actual = {part: tuple(tensor.shape) for part, tensor in parts.items()}
    return "" if actual == expected else f"its tensors have the shapes {actual}, not {expected}"


if __name__ == "__main__":
    base_folder, adapter_folder, target_folder = map(Path, sys.argv[1:])
    adapted = weights_in(adapter_folder, base_folder)
    assert isinstance(adapted, AdaptedWeights), f"{adapter_folder} ({ADAPTER_FILE}) holds no adapter"
    write_merged(adapted, target_folder, None)
