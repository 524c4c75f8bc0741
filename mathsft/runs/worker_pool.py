"""The workers of one driver, and the pools that lend them to the runs."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from typing import Self

from mathsft.config.study_schema import LimitSettings
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.backend import Backend
from mathsft.workers.placement import Placement
from mathsft.workers.spawn import SpawnBackend
from mathsft.workers.worker import Device, Worker


class WorkerPool:
    """Workers that are lent one at a time, first come first served.

    asyncio's Queue is not fair: there a caller that arrives just as a worker is given back would overtake those that wait.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.size = len(workers)
        self._free = list(workers)
        self._waiting: list[tuple[asyncio.Future[Worker], Worker | None]] = []

    async def take(self, avoided: Worker | None = None) -> Worker:
        """Wait for a free worker and take it: one that is not avoided, unless there is no other one in the pool."""
        future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        place = future, avoided if self.size > 1 else None
        self._waiting.append(place)
        self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            elif not future.cancelled():  # it was served in the same moment
                self.give(future.result())
            raise

    def give(self, worker: Worker) -> None:
        """Give a worker back; the caller that has waited longest for one like it gets it."""
        self._free.append(worker)
        self._serve()

    def _serve(self) -> None:
        for place in list(self._waiting):
            future, avoided = place
            worker = next((worker for worker in self._free if worker is not avoided), None)
            if worker is not None and not future.cancelled():
                self._free.remove(worker)
                self._waiting.remove(place)
                future.set_result(worker)

    @contextmanager
    def until_done(self, worker: Worker) -> Iterator[None]:
        """Give a taken worker back when the body ends, also after an error."""
        try:
            yield
        finally:
            self.give(worker)

    @asynccontextmanager
    async def lease(self, avoided: Worker | None = None) -> AsyncIterator[Worker]:
        worker = await self.take(avoided)
        with self.until_done(worker):
            yield worker


@dataclass(frozen=True)
class StudyWorkers:
    """The trainers and evaluators of one driver."""

    trainers: WorkerPool
    evaluators: WorkerPool
    limits: LimitSettings = field(default_factory=LimitSettings)
    backend: Backend = field(default_factory=SpawnBackend)

    @classmethod
    @contextmanager
    def started(cls, placement: Placement, limits: LimitSettings, backend: Backend | None = None) -> Iterator[Self]:
        """Start the placement's workers, on this machine or in another backend; end them when the body ends."""
        backend = backend or SpawnBackend()
        devices = {spec.device: Device() for spec in (*placement.trainers, *placement.evaluators)}
        with ExitStack() as stack:

            def start(kind: str, specs: Sequence[WorkerSpec]) -> list[Worker]:
                named = ((f"{kind}-{index}", spec) for index, spec in enumerate(specs))
                workers = (Worker(spec, name, devices[spec.device], limits, backend) for name, spec in named)
                return [stack.enter_context(closing(worker)) for worker in workers]

            trainers, evaluators = start("trainer", placement.trainers), start("evaluator", placement.evaluators)
            for worker in (*trainers, *evaluators):
                worker.others = [other for other in (*trainers, *evaluators) if other is not worker]
            yield cls(WorkerPool(trainers), WorkerPool(evaluators), limits, backend)
