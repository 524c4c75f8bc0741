"""The workers of one driver, lent to whoever trains or scores next. Knows nothing of what they are asked."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from mathsft.config.schema import LimitSettings
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.placement import Placement
from mathsft.workers.spawn import SpawnProcess
from mathsft.workers.usage import Nvml
from mathsft.workers.worker import Device, Worker


class WorkerLike(Protocol):
    """A worker as the loop sees it: `call` is idempotent, survives deaths, and raises Failed, RemoteError or UserError."""

    name: str
    spec: WorkerSpec

    @property
    def pids(self) -> Sequence[int]:
        """Return its processes."""

    @property
    def has_answered(self) -> bool:
        """Tell whether its processes have loaded what they need."""

    @property
    def has_device(self) -> bool:
        """Tell whether what its device does now it does for this worker."""

    async def call(self, method: str, *args: Any, progress: Path | None = None) -> Any: ...


class WorkerPool:
    """Workers that are lent one at a time, first come first served.

    Not an asyncio.Queue: who asks just when a worker is given back would get it before those who wait.
    """

    def __init__(self, workers: Sequence[WorkerLike]) -> None:
        self.size = len(workers)
        self._free = deque(workers)
        self._waiting: deque[asyncio.Future[WorkerLike]] = deque()

    async def take(self) -> WorkerLike:
        """Wait for a worker."""
        if self._free:
            return self._free.popleft()
        promised: asyncio.Future[WorkerLike] = asyncio.get_running_loop().create_future()
        self._waiting.append(promised)
        try:
            return await promised
        except asyncio.CancelledError:
            if promised.done() and not promised.cancelled():
                self.give(promised.result())
            raise

    def give(self, worker: WorkerLike) -> None:
        """Give a worker back: to who waits longest."""
        while self._waiting:
            promised = self._waiting.popleft()
            if not promised.done():
                promised.set_result(worker)
                return
        self._free.append(worker)

    @contextmanager
    def until_done(self, worker: WorkerLike) -> Iterator[None]:
        """Give a worker back that was taken before, whatever happens."""
        try:
            yield
        finally:
            self.give(worker)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[WorkerLike]:
        worker = await self.take()
        with self.until_done(worker):
            yield worker


@dataclass(frozen=True)
class StudyWorkers:
    """The trainers and evaluators of one driver."""

    trainers: WorkerPool
    evaluators: WorkerPool
    nvml: Nvml | None = None
    """Tells what their CUDA devices do, where they have any."""

    @classmethod
    @contextmanager
    def started(cls, placement: Placement, limits: LimitSettings) -> Iterator[Self]:
        """Start the placement's workers; end them, whatever happens."""
        devices = {spec.device: Device() for spec in (*placement.trainers, *placement.evaluators)}
        workers: list[Worker] = []

        def start(kind: str, specs: Sequence[WorkerSpec]) -> WorkerPool:
            new = [
                Worker(SpawnProcess, spec, f"{kind}-{index}", devices[spec.device], limits)
                for index, spec in enumerate(specs)
            ]
            workers.extend(new)
            return WorkerPool(new)

        on_cuda = placement.evaluators[0].settings.hardware.device == "cuda"
        try:
            with closing(Nvml()) if on_cuda else nullcontext() as nvml:
                yield cls(start("trainer", placement.trainers), start("evaluator", placement.evaluators), nvml)
        finally:
            for worker in workers:
                worker.close()
