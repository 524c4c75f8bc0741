"""What a backend is: it says which machines there are, starts workers' processes on them, and reads what these use."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mathsft.layout import StudyLayout
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.host import Reply
from mathsft.workers.machine import Machine
from mathsft.workers.usage import UsageReading


class WorkerDied(Exception):  # noqa: N818 - what happened, not an error of the code
    """A process ended before it replied: how, in words, and its log."""

    def __init__(self, ending: str, log_path: Path) -> None:
        super().__init__(f"{ending} (log: {log_path})")
        self.ending, self.log_path = ending, log_path


class WorkerProcess(Protocol):
    """One process of a worker, on any machine."""

    @property
    def log_path(self) -> Path:
        """Return the file of its output, which the driver can read."""

    @property
    def pid(self) -> int:
        """Return its id on its machine; 0 before it has started."""

    @property
    def is_alive(self) -> bool:
        """Return whether the process has not ended."""

    @property
    def lacks_place(self) -> bool:
        """Return whether it has not started because no machine has room for it now."""

    async def request(self, method: str, args: tuple[Any, ...]) -> Reply:
        """Return the target's reply; raises WorkerDied. After a cancelled request only `kill` may be called."""

    def kill(self) -> None:
        """Kill the process, unless it has ended, and wait until it is gone; the worker's other ranks may end, too."""


class Backend(Protocol):
    """Starts the processes of workers and knows the machines on which they run."""

    @property
    def is_cluster(self) -> bool:
        """Return whether its scheduler chooses the machine and the devices of each worker."""

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Return the machines that there are now; raises UserError if there is none."""

    def share(self, layout: StudyLayout) -> int:
        """Return on how many computers the machines are; raises UserError if one of them does not see the study's folder."""

    def start(self, spec: WorkerSpec, name: str) -> Sequence[WorkerProcess]:
        """Start a worker and return its processes, one for each rank. They need not have started when this returns."""

    async def usage(self, processes: Sequence[WorkerProcess], visible: str | None) -> UsageReading | None:
        """Return what a worker's processes use now, and the devices named in its CUDA_VISIBLE_DEVICES; None if unknown."""

    def close(self) -> None:
        """Release what the backend holds; all workers must be closed before."""
