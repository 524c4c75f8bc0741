"""Keeps vectors in host memory for one run after the other: pinned memory copies fast, and pinning it takes seconds."""

import torch
from torch import Tensor


class HostBuffers:
    """Vectors of fp32 numbers by name, for the run that has the model now; the next run gets the same memory."""

    def __init__(self) -> None:
        self._vectors: dict[str, Tensor] = {}

    def get(self, name: str, num_elements: int, device: torch.device) -> Tensor:
        """Return the vector of this name, with the values that it has; a new one if there is none of this length.

        A new one is pinned if the other end of its copies is a CUDA device. The driver's allocator settings
        (CUDA_TRAINER_ENV) give it exactly its size; torch's default is the next power of two.
        """
        if len(self._vectors.get(name, ())) != num_elements:
            self._vectors.pop(name, None)  # freed before the new one is allocated
            self._vectors[name] = torch.empty(num_elements, pin_memory=device.type == "cuda")
        return self._vectors[name]
