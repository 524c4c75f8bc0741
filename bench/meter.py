"""Measures a contender's training in its own process: CPU-seconds, peak memory, and the tokens that its model computes."""

import ctypes
import gc
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Measurement:
    """The measured training on some of the workload's batches."""

    cpu_seconds: float
    num_examples: int
    num_useful_tokens: int
    """Tokens of the examples, prompt and response, without padding."""
    num_steps: int
    loss: float
    """Nats per response token: the mean over steps of the loss before the update."""
    peak_memory_bytes: int
    """Peak memory of the training, with weights and optimizer, without imports."""
    num_computed_tokens: int
    """Tokens that went through the layers, padding included."""
    num_attended_tokens: int
    """Pairs of computed tokens of which one may attend to the other."""
    num_predicted_tokens: int
    """Tokens whose logits were computed."""


class Counter:
    """Counts the tokens that go through a Hugging Face causal language model."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.num_computed_tokens = 0
        self.num_attended_tokens = 0
        model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: "nn.Module", args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        ids_BT = inputs["input_ids"] if "input_ids" in inputs else args[0]
        positions_BT = inputs.get("position_ids")
        self.num_computed_tokens += ids_BT.numel()
        # A token at position p attends to itself and to p others, also in packed rows.
        if positions_BT is None:
            num_rows, num_columns = ids_BT.shape
            self.num_attended_tokens += num_rows * num_columns * (num_columns + 1) // 2
        else:
            self.num_attended_tokens += int((positions_BT + 1).sum())


class Meter:
    """Measures the time and memory of one training. Create it before the model, start it after, stop it at the end."""

    def __init__(self) -> None:
        give_back_memory()
        self._bytes_before = _status_bytes("VmRSS")
        self._started = 0.0
        self.cpu_seconds = 0.0
        self.peak_memory_bytes = 0

    def start(self) -> None:
        """Return the memory that building the model left, and start the clock."""
        give_back_memory()
        (PROCESS / "clear_refs").write_text("5")  # resets the peak to the present size
        self._started = time.process_time()

    def stop(self) -> None:
        """Stop the clock."""
        self.cpu_seconds = time.process_time() - self._started
        self.peak_memory_bytes = _status_bytes("VmHWM") - self._bytes_before


def give_back_memory() -> None:
    """Return this process's unused memory to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{PROCESS / 'status'} has no line {name}: this bench needs Linux")
    return int(match[1]) * 1024
