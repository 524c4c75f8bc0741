"""What a trainer has left in a study's folder."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mathsft.records import Checkpoint

TIMED = ("seconds", "flop_utilization")
"""Of a step's metrics: they are never the same twice."""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(study_dir: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(study_dir / checkpoint.path / "model.safetensors")


def curve(study_dir: Path, run: str = "trial-0") -> list[dict[str, float]]:
    """Return the run's metrics but for those that are never the same twice."""
    lines = (study_dir / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMED} for line in lines]
