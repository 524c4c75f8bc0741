"""What the parts of bench.device share: their context, and what they ask of the device they run on."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Figures: TypeAlias = dict[str, Any]
Part: TypeAlias = "Callable[[Context], Iterator[Figures]]"


@dataclass(frozen=True)
class Context:
    """Where a part runs, and its model."""

    device: str
    """"cuda" or "cpu"."""
    scratch: Path
    is_smoke: bool
    """Whether the model is tiny and the rows are short."""

    @property
    def model_folder(self) -> Path:
        return self.scratch / "model"

    @property
    def shallow_folder(self) -> Path:
        """The same model with fewer layers."""
        return self.scratch / "shallow"


class Clock:
    """Times work on the device."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"

    def seconds(self, action: Callable[[], Any]) -> float:
        """Return the seconds of the action until the device has done it."""
        self.synchronize()
        started = time.perf_counter()
        action()
        self.synchronize()
        return time.perf_counter() - started

    def synchronize(self) -> None:
        if self._is_cuda:
            import torch

            torch.cuda.synchronize()


def free_memory(device: str) -> None:
    """Return unused memory to the device or to the host."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def rounded(value: float, digits: int = 3) -> float:
    """Return the value with this many significant digits."""
    return float(f"{value:.{digits}g}")
