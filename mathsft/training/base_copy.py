"""Keeps one published copy of the base model in a study's folder, to which all of the study's adapters belong."""

import fcntl
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from mathsft.data.weight_tensors import WholeWeights
from mathsft.data.weights import fingerprint
from mathsft.training.state import BaseModel, publish


@dataclass
class BaseCopy:
    """The folder of the copy. Its tensors have the names of the trainer's model, as those of full checkpoints have."""

    folder: Path
    _fingerprint: str = field(default="", init=False)

    def published(self, base: BaseModel) -> str:
        """Return the fingerprint of the copy; write the copy first if it is missing or has other values."""
        if not self._fingerprint or not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with self.folder.with_name(f"{self.folder.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # several trainers publish the same copy
                if not self._is_whole(base):
                    publish(base, base.weights, self.folder)
            self._fingerprint = fingerprint(self.folder)
        return self._fingerprint

    def _is_whole(self, base: BaseModel) -> bool:
        try:
            names = {name for name, tensor in WholeWeights(self.folder).tensors() if _same(tensor, base.weights.get(name))}
            return names == base.weights.keys() == WholeWeights(self.folder).shapes().keys()
        except (OSError, SafetensorError):
            return False


def _same(tensor: torch.Tensor, expected: torch.Tensor | None) -> bool:
    return expected is not None and tensor.dtype == expected.dtype and torch.equal(tensor, expected)
