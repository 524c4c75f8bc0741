"""A run's full state on disk: every tensor that its next step depends on, so that a killed run goes on to the same bits.

Data order and learning rate follow from (settings, seed, step) and training draws no random numbers: tensors and step are
all there is. A run has one file, replaced by rename; the driver deletes it once it has recorded how the run ended. What is
not whole, or not of exactly this run, is never believed, only logged. When to save is a question of cost (SavePace) and
changes no result.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT = "mathsft full state 1"
"""To be changed whenever the tensors of a state mean something else."""
MAX_SAVE_SHARE = 0.02
"""Of the training time, for saving."""
MIN_TRAINED_SECONDS = 1.0
"""What is trained faster than this may as well be trained again."""
ASSUMED_BYTES_PER_SECOND = 5e8
"""Of hashing and writing, before the first state was saved."""


@dataclass(frozen=True)
class FullState:
    """The tensors of a run after `step` optimizer steps, which is also the number of its lines of metrics."""

    identity: str
    """Hash of all that decides the run's weights."""
    step: int
    num_tokens: int
    """Trained on so far."""
    tensors: Mapping[str, Tensor]


def save_full_state(path: Path, state: FullState) -> None:
    """Replace the run's state on disk, whole or not at all; what cannot be written is logged, and training goes on."""
    partial = _partial(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    header = {"format": FORMAT, "identity": state.identity, "step": str(state.step), "num_tokens": str(state.num_tokens)}
    try:
        partial.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial / path.name, {**header, "digest": _digest(header, tensors)})
        # Not flushed to the medium: after a power cut the digest tells whether the file is whole.
        (partial / path.name).replace(path)
    except (OSError, SafetensorError) as error:
        logger.warning("%s: the state of step %d cannot be saved (%s)", path, state.step, error)
    shutil.rmtree(partial, ignore_errors=True)


def load_full_state(path: Path, identity: str, max_step: int, like: Mapping[str, Tensor]) -> FullState | None:
    """Return the run's state on disk, on the host; None where there is none of this run, up to this step, shaped `like`."""
    shutil.rmtree(_partial(path), ignore_errors=True)  # a kill during a save left it
    if not path.is_file():
        return None
    try:
        state = _read(path)
        if state.identity != identity:
            raise ValueError("it is of other settings")
        if state.step > max_step:
            raise ValueError(f"its step {state.step} is after {max_step}")
        if _shapes(state.tensors) != _shapes(like):
            raise ValueError("it holds other tensors")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None
    return state


def discard_full_state(path: Path) -> None:
    """Delete the run's state on disk, a half-written one too."""
    shutil.rmtree(_partial(path), ignore_errors=True)
    path.unlink(missing_ok=True)


class SavePace:
    """Says after which step to save, so that saving takes at most MAX_SAVE_SHARE of the training time."""

    def __init__(self, state_bytes: int) -> None:
        self._save_seconds = state_bytes / ASSUMED_BYTES_PER_SECOND
        self._trained_seconds = 0.0

    def is_due(self, step_seconds: float) -> bool:
        """Count a step and tell whether enough was trained since the last save."""
        self._trained_seconds += step_seconds
        return self._trained_seconds > max(MIN_TRAINED_SECONDS, self._save_seconds / MAX_SAVE_SHARE)

    def saved(self, seconds: float) -> None:
        """Note what the save took that has just been made."""
        self._save_seconds, self._trained_seconds = seconds, 0.0


def _partial(path: Path) -> Path:
    """Return the folder to write the file in: safetensors writes beside it, under a random name that a kill leaves."""
    return path.with_name(f".{path.name}.partial")


def _read(path: Path) -> FullState:
    """Return what the file holds; raises ValueError, KeyError or SafetensorError where it is not whole."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    digest = header.pop("digest")
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
    if digest != _digest(header, tensors):
        raise ValueError("it is corrupt")
    return FullState(header["identity"], int(header["step"]), int(header["num_tokens"]), tensors)


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return 32 hex digits over the header and every tensor's name, type, shape and bytes; the tensors lie on the host."""
    digest = hashlib.blake2b(json.dumps([header, _shapes(tensors)], sort_keys=True).encode(), digest_size=16)
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in tensors.items()}
