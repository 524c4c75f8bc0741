"""A trainer that, the first time, does not finish saving a step until it is killed; imported by a worker's process."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mathsft.training import trained
from mathsft.training.state import save_published
from mathsft.training.trainer import Trainer
from mathsft.worker_settings import WorkerSettings

HELD_STEP = 4


def partial_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


class HeldTrainer(Trainer):
    def __init__(self, settings: WorkerSettings) -> None:
        trained.save_published = _save
        super().__init__(settings)


def _save(base: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    if folder.name.endswith(f"{HELD_STEP:06d}") and not partial_of(folder).exists():
        partial_of(folder).mkdir()
        threading.Event().wait()
    save_published(base, tensors, folder)
