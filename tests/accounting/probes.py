"""Probes for the tests of `measured_speeds`; imported by their processes."""

import os
import signal
import time
from typing import Any

from mathsft.errors import UserError
from mathsft.worker_settings import WorkerSettings


class Asked:
    """Tells what it was asked instead of measuring."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._folder = settings.layout.root

    def measure(self, problems: Any, batch_sizes: Any, num_responses: int) -> Any:
        return (
            self._folder,
            len(problems),
            batch_sizes,
            num_responses,
            os.sched_getaffinity(0),
            os.environ["OMP_NUM_THREADS"],
        )


class Refusing(Asked):
    def measure(self, problems: Any, batch_sizes: Any, num_responses: int) -> Any:
        raise UserError("training.max_length_tokens = 2: nothing fits")


class Short(Asked):
    def measure(self, problems: Any, batch_sizes: Any, num_responses: int) -> Any:
        raise MemoryError("CUDA out of memory\nand a page of advice")


class Killed(Asked):
    def measure(self, problems: Any, batch_sizes: Any, num_responses: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Asked):
    def measure(self, problems: Any, batch_sizes: Any, num_responses: int) -> Any:
        time.sleep(3600)
