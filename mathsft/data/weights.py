"""Says what a published folder holds: all weights of a model, or a LoRA adapter beside a base model's weights."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from safetensors import SafetensorError, safe_open

from mathsft.errors import CheckpointError

ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, by the names of peft."""
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
    """Return 32 hex digits that identify a folder's weights: BLAKE3 over its *.safetensors files in the order of names.

    The settings of an adapter belong to its weights: with another scaling it is another model.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} contains no *.safetensors file to fingerprint")
    digest = blake3()  # each weight swap waits for it; BLAKE2b takes half as long as vLLM's reload
    for path in [*files, *([folder / ADAPTER_CONFIG] if is_adapter(folder) else [])]:
        digest.update_mmap(path)
    return digest.hexdigest(length=16)
