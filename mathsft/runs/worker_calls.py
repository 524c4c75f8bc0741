"""Records when and where a worker worked for a run, and which of the machine's resources it used."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from mathsft.records import OngoingCall, WorkerCall
from mathsft.runs.context import StudyContext
from mathsft.runs.progress import polling
from mathsft.store.study_store import StudyStore
from mathsft.workers.usage import UsageReading
from mathsft.workers.worker import Worker

READ_SECONDS = 2.0
"""Interval between readings: short enough to see memory rise and fall; one takes the driver some milliseconds."""


def usage_fields(readings: Sequence[UsageReading]) -> dict[str, Any]:
    """Return the fields of WorkerCall that follow from readings of one worker: sums, maxima, and the mean utilisation.

    Each reading adds the usage since the one before; a process that is new since then counts from its start.
    """
    steps = list(pairwise(readings))
    devices = [reading.device for reading in readings if reading.device is not None]
    utilizations = [device.utilization for device in devices if device.utilization is not None]
    joules = [
        after.device.energy_joules - before.device.energy_joules
        for before, after in steps
        if before.device is not None and before.device.energy_joules is not None
        if after.device is not None and after.device.energy_joules is not None
    ]  # without the steps in which another worker held the device
    return {
        "cpu_seconds": sum(
            max(0.0, now - before.cpu_seconds.get(pid, 0.0))
            for before, after in steps
            for pid, now in after.cpu_seconds.items()
        ),
        "resident_bytes": max((reading.resident_bytes for reading in readings), default=0),
        "device_utilization": fmean(utilizations) if utilizations else None,
        "energy_joules": sum(joules) if joules else None,
        "device_bytes": max((device.used_bytes for device in devices if device.used_bytes is not None), default=None),
    }


@asynccontextmanager
async def recording_call(worker: Worker, run: str, step: int, pool: str, study: StudyContext) -> AsyncIterator[None]:
    """Announce the worker's call while the body waits for it, and record the call unless the body raises."""
    began = time.time()
    readings: list[UsageReading] = []
    visible = worker.spec.env.get("CUDA_VISIBLE_DEVICES")

    async def read() -> None:
        # While the worker waits for its turn, a shared device works for another worker.
        reading = await study.workers.backend.usage(worker.processes, visible if worker.has_device else None)
        if reading is not None:
            readings.append(reading)

    await read()
    with announcing_call(worker, run, step, pool, study.store):
        async with polling(read, READ_SECONDS):
            yield
    await read()
    call = WorkerCall(
        worker=worker.name,
        run=run,
        step=step,
        pool=pool,
        began=began,
        ended=time.time(),
        cpus=worker.spec.cpus,
        cuda_visible_devices=visible,
        **usage_fields(readings),
    )
    study.store.write(call)


@contextmanager
def announcing_call(worker: Worker, run: str, step: int, pool: str, store: StudyStore) -> Iterator[None]:
    """Announce that the worker's call begins, and that it is over when the body ends."""
    call = OngoingCall(worker.name, run, step, pool, is_starting=not worker.has_answered)
    store.announce(call)
    try:
        yield
    finally:
        store.announce(replace(call, is_over=True))
