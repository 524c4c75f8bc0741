"""The workers of one driver, and the pools that lend them to the runs."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import Self

from mathsft.config.schema import LimitSettings
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.placement import Placement
from mathsft.workers.usage import Nvml
from mathsft.workers.worker import Device, Worker


class WorkerPool:
    """Workers that are lent one at a time, first come first served.

    asyncio's Semaphore is fair, its Queue is not: there a caller that arrives just as a worker is given back would overtake
    those that wait.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.size = len(workers)
        self._free, self._num_free = deque(workers), asyncio.Semaphore(len(workers))

    async def take(self) -> Worker:
        """Wait for a free worker and take it."""
        await self._num_free.acquire()
        return self._free.popleft()

    def give(self, worker: Worker) -> None:
        """Give a worker back; the caller that has waited longest gets it."""
        self._free.append(worker)
        self._num_free.release()

    @contextmanager
    def until_done(self, worker: Worker) -> Iterator[None]:
        """Give a taken worker back when the body ends, also after an error."""
        try:
            yield
        finally:
            self.give(worker)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Worker]:
        worker = await self.take()
        with self.until_done(worker):
            yield worker


@dataclass(frozen=True)
class StudyWorkers:
    """The trainers and evaluators of one driver."""

    trainers: WorkerPool
    evaluators: WorkerPool
    nvml: Nvml | None = None
    """Reads the usage of their CUDA devices; None on a CPU."""

    @classmethod
    @contextmanager
    def started(cls, placement: Placement, limits: LimitSettings) -> Iterator[Self]:
        """Start the placement's workers; end them when the body ends, also after an error."""
        devices = {spec.device: Device() for spec in (*placement.trainers, *placement.evaluators)}
        with ExitStack() as stack:

            def start(kind: str, specs: Sequence[WorkerSpec]) -> WorkerPool:
                started = (Worker(spec, f"{kind}-{index}", devices[spec.device], limits) for index, spec in enumerate(specs))
                return WorkerPool([stack.enter_context(closing(worker)) for worker in started])

            on_cuda = placement.evaluators[0].settings.worker_device.device == "cuda"
            nvml = stack.enter_context(closing(Nvml())) if on_cuda else None
            yield cls(start("trainer", placement.trainers), start("evaluator", placement.evaluators), nvml)
