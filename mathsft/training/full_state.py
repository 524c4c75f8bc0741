"""Saves and loads a run's full state: every tensor that its next step depends on, so that a killed run resumes bit for bit.

Data order and learning rate follow from (settings, seed, step), and training draws no random numbers. So the tensors and the
step are the whole state. A run has one file, replaced by rename; the driver deletes it after it has recorded the run's end.
A file that is damaged or belongs to another run is logged and not used. SavePace affects the running time only.
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
"""Change this text whenever the meaning of the tensors in a state changes."""
_MAX_SAVE_SHARE = 0.02
"""Share of the training time that saving may take."""
_MIN_TRAINED_SECONDS = 1.0
"""Less training than this is not saved; it is repeated after a kill."""
_ASSUMED_BYTES_PER_SECOND = 5e8
"""Rate of hashing and writing that is assumed until the first save is measured."""


@dataclass(frozen=True)
class FullState:
    """The tensors of a run after `step` optimizer steps; its metrics file then has `step` lines."""

    identity: str
    """Hash of everything that determines the run's weights."""
    step: int
    num_tokens: int
    """Number of tokens that the run has trained on."""
    tensors: Mapping[str, Tensor]


def save_full_state(path: Path, state: FullState) -> None:
    """Replace the run's state on disk by atomic rename. A write error is logged, and training goes on."""
    partial = _partial(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    header = {"format": FORMAT, "identity": state.identity, "step": str(state.step), "num_tokens": str(state.num_tokens)}
    try:
        partial.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial / path.name, {**header, "digest": _digest(header, tensors)})
        # There is no fsync: after a power failure, the digest shows whether the file is complete.
        (partial / path.name).replace(path)
    except (OSError, SafetensorError) as error:
        logger.warning("%s: the state of step %d cannot be saved (%s)", path, state.step, error)
    shutil.rmtree(partial, ignore_errors=True)


def load_full_state(path: Path, identity: str, max_step: int, like: Mapping[str, Tensor]) -> FullState | None:
    """Return the run's state on disk, or None unless it has this identity, a step up to max_step and tensors like `like`."""
    shutil.rmtree(_partial(path), ignore_errors=True)  # a save that was killed leaves this folder
    if not path.is_file():
        return None
    try:
        state = _read(path)
        if state.identity != identity:
            raise ValueError("it belongs to other settings")
        if state.step > max_step:
            raise ValueError(f"its step {state.step} is after the requested step {max_step}")
        if _shapes(state.tensors) != _shapes(like):
            raise ValueError("its tensors are not those of the model")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None
    return state


def discard_full_state(path: Path) -> None:
    """Delete the run's state on disk, and an incomplete one."""
    shutil.rmtree(_partial(path), ignore_errors=True)
    path.unlink(missing_ok=True)


class SavePace:
    """Decides after which step to save, so that saving takes at most _MAX_SAVE_SHARE of the training time."""

    def __init__(self, state_bytes: int) -> None:
        self._save_seconds = state_bytes / _ASSUMED_BYTES_PER_SECOND
        self._trained_seconds = 0.0

    def is_due(self, step_seconds: float) -> bool:
        """Count a step and return whether enough was trained since the last save."""
        self._trained_seconds += step_seconds
        return self._trained_seconds > max(_MIN_TRAINED_SECONDS, self._save_seconds / _MAX_SAVE_SHARE)

    def saved(self, seconds: float) -> None:
        """Record the duration of the save that has just been made."""
        self._save_seconds, self._trained_seconds = seconds, 0.0


def _partial(path: Path) -> Path:
    """Return the folder in which to write the file: safetensors first writes a temporary file with a random name there."""
    return path.with_name(f".{path.name}.partial")


def _read(path: Path) -> FullState:
    """Return the state in the file. Raises ValueError, KeyError or SafetensorError if it is damaged."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is not a mapping
    digest = header.pop("digest")
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
    if digest != _digest(header, tensors):
        raise ValueError("it is corrupt")
    return FullState(header["identity"], int(header["step"]), int(header["num_tokens"]), tensors)


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return a hash, 32 hex digits, of the header and every tensor's name, dtype, shape and bytes. Takes host tensors."""
    digest = hashlib.blake2b(json.dumps([header, _shapes(tensors)], sort_keys=True).encode(), digest_size=16)
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in tensors.items()}
