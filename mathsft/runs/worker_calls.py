"""Records when and where a worker worked for a run, and which of the machine's resources it used."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from statistics import fmean

from mathsft.records import OngoingCall, WorkerCall
from mathsft.runs.context import StudyContext
from mathsft.runs.progress import polling
from mathsft.runs.worker_pool import WorkerLike
from mathsft.store.study_store import StudyStore
from mathsft.workers.usage import UsageReading, read_processes

READ_SECONDS = 2.0
"""Interval between readings: short enough to see memory rise and fall; one takes the driver some milliseconds."""


class UsageTally:
    """Accumulates readings of one worker: sums of processor time and energy, maxima of memory, mean utilisation."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.resident_bytes = 0
        self.device_bytes: int | None = None
        self.energy_joules: float | None = None
        self._utilizations: list[float] = []
        self._last: UsageReading | None = None

    @property
    def device_utilization(self) -> float | None:
        """Return the mean over the readings that have one; None if none has."""
        return fmean(self._utilizations) if self._utilizations else None

    def add(self, reading: UsageReading) -> None:
        """Add the usage since the previous reading; a process that is new since then counts from its start."""
        if self._last is not None:
            before = self._last.cpu_seconds
            self.cpu_seconds += sum(max(0.0, now - before.get(pid, 0.0)) for pid, now in reading.cpu_seconds.items())
        self.resident_bytes = max(self.resident_bytes, reading.resident_bytes)
        self._add_device(reading)
        self._last = reading

    def _add_device(self, reading: UsageReading) -> None:
        if reading.device is None:
            return
        if reading.device.utilization is not None:
            self._utilizations.append(reading.device.utilization)
        if reading.device.used_bytes is not None:
            self.device_bytes = max(self.device_bytes or 0, reading.device.used_bytes)
        before = self._last.device if self._last is not None else None  # None also if another worker held the device
        if before is not None and before.energy_joules is not None and reading.device.energy_joules is not None:
            self.energy_joules = (self.energy_joules or 0.0) + reading.device.energy_joules - before.energy_joules


@asynccontextmanager
async def recording_call(worker: WorkerLike, run: str, step: int, pool: str, study: StudyContext) -> AsyncIterator[None]:
    """Announce the worker's call while the body waits for it, and record the call unless the body raises."""
    tally, began, nvml = UsageTally(), time.time(), study.workers.nvml
    visible = worker.spec.env.get("CUDA_VISIBLE_DEVICES")

    def read() -> None:
        cpu_seconds, resident_bytes = read_processes(worker.pids)
        # While the worker waits for its turn, a shared device works for another worker.
        device = nvml.read(visible) if nvml is not None and visible and worker.has_device else None
        tally.add(UsageReading(cpu_seconds, resident_bytes, device))

    read()
    with announcing_call(worker, run, step, pool, study.store):
        async with polling(read, READ_SECONDS):
            yield
    read()
    call = WorkerCall(
        worker=worker.name,
        run=run,
        step=step,
        pool=pool,
        began=began,
        ended=time.time(),
        cpus=worker.spec.cpus,
        cuda_visible_devices=visible,
        cpu_seconds=tally.cpu_seconds,
        resident_bytes=tally.resident_bytes,
        device_utilization=tally.device_utilization,
        energy_joules=tally.energy_joules,
        device_bytes=tally.device_bytes,
    )
    study.store.write(call)


@contextmanager
def announcing_call(worker: WorkerLike, run: str, step: int, pool: str, store: StudyStore) -> Iterator[None]:
    """Announce that the worker's call begins, and that it is over when the body ends."""
    call = OngoingCall(worker.name, run, step, pool, is_starting=not worker.has_answered)
    store.announce(call)
    try:
        yield
    finally:
        store.announce(replace(call, is_over=True))
