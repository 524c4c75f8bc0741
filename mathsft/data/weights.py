"""Says what a published folder holds: all weights of a model, or a LoRA adapter beside a base model's weights."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from safetensors import SafetensorError, safe_open

from mathsft.errors import CheckpointError
from mathsft.publication import ADAPTER_CONFIG, weight_files

ADAPTER_FILE = "adapter_model.safetensors"
"""The file of an adapter's tensors, by the name of peft."""
ADAPTER_PREFIX = "base_model.model."
"""Prefix that peft gives to the names of a model's modules in an adapter's file."""
BASE_FINGERPRINT = "base_fingerprint"
"""Key in the metadata of an adapter's file."""


@dataclass(frozen=True)
class Adapter:
    """The settings of a published adapter."""

    rank: int
    scaling: float
    """Factor of the product B A that is added to a weight."""
    is_dora: bool
    is_transposed: bool
    """The adapted weights are stored as inputs x outputs (GPT-2)."""
    base_fingerprint: str
    """Hash of the base model's published weights, to which the adapter belongs."""


def is_adapter(folder: Path) -> bool:
    """Return whether the folder holds an adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Return the settings of the adapter in the folder; raises CheckpointError if they cannot be read."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        with safe_open(folder / ADAPTER_FILE, framework="numpy") as file:
            base_fingerprint = (file.metadata() or {}).get(BASE_FINGERPRINT, "")
        return Adapter(
            rank=rank,
            scaling=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
            is_dora=bool(config.get("use_dora")),
            is_transposed=bool(config.get("fan_in_fan_out")),
            base_fingerprint=base_fingerprint,
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"the adapter in {folder} cannot be read: {error}") from error


def fingerprint(folder: Path) -> str:
    """Return 32 hex digits that identify a folder's weights: BLAKE3 over its `weight_files`."""
    files = weight_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} contains no *.safetensors file to fingerprint")
    # Scoring waits for it. Four times as fast as BLAKE2b on one core, and it uses several; the threads change no digit.
    digest = blake3(max_threads=blake3.AUTO)
    for path in files:
        digest.update_mmap(path)
    return digest.hexdigest(length=16)
