"""The trainer that the tests of ranks start: it saves often, and one of its ranks kills itself in the middle of a pass."""

import os
import signal
from itertools import count

import torch

from mathsft.training.batching.microbatches import MicroBatch
from mathsft.training.full_state import SavePace
from mathsft.training.meter import gemm
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.worker_settings import WorkerSettings
from tests.training.settled import Trainer


def save_every_third_step() -> None:
    steps = count(1)
    SavePace.is_due = lambda self, seconds: next(steps) % 3 == 0


class EagerTrainer(Trainer):
    """Reads the file `kill` in the study's folder, once: the rank that is to die, and in which of its passes."""

    def __init__(self, settings: WorkerSettings) -> None:
        gemm.SIZES = (64,)
        save_every_third_step()
        super().__init__(settings)
        order = settings.layout.root / "kill"
        if order.exists():
            rank, num_passes = map(int, order.read_text().split())
            if rank == self._ranks.rank:
                kill_in_pass(num_passes)


def kill_in_pass(number: int) -> None:
    forward, passes = MicroBatchLoss.forward, count(1)

    def dying(self: MicroBatchLoss, row: MicroBatch, scale: float = 1.0) -> torch.Tensor:
        if next(passes) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, row, scale)

    MicroBatchLoss.forward = dying
