"""What a worker is recorded to have used, from readings and from a real process."""

import asyncio
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mathsft.config.schema import Experiment
from mathsft.layout import StudyLayout
from mathsft.records import OngoingCall
from mathsft.runs.context import StudyContext
from mathsft.runs.worker_calls import recording_call, usage_fields
from mathsft.runs.worker_pool import StudyWorkers, WorkerPool
from mathsft.store.study_store import StudyStore
from mathsft.workers.backend import Backend
from mathsft.workers.machine import Machine
from mathsft.workers.placement import place
from mathsft.workers.spawn import SpawnBackend
from mathsft.workers.usage import DeviceReading, UsageReading
from tests.build import Listener, make_machine


def test_readings_add_up_and_another_ones_use_of_the_device_is_left_out() -> None:
    readings = [
        UsageReading({7: 10.0}, 100, DeviceReading(0.2, 1000.0, 5)),
        UsageReading({7: 11.5}, 300, DeviceReading(0.6, 1400.0, 9)),
        UsageReading({7: 12.0}, 200, None),  # another worker's turn
        UsageReading({7: 12.0}, 200, DeviceReading(0.7, 9000.0, 8)),
        UsageReading({8: 2.0}, 200, DeviceReading(None, 9100.0, None)),  # a new process in place of one that died
    ]
    assert usage_fields(readings) == {
        "cpu_seconds": 1.5 + 0.5 + 2.0,
        "resident_bytes": 300,
        "device_utilization": pytest.approx(0.5),
        "energy_joules": 400 + 100,
        "device_bytes": 9,
    }


def test_without_a_cuda_device_nothing_is_said_of_one() -> None:
    used = usage_fields([UsageReading({1: 1.0}, 1, None)])
    assert (used["device_utilization"], used["energy_joules"], used["device_bytes"]) == (None, None, None)


def worker(experiment: Experiment, folder: Path, machine: Machine) -> Any:
    [spec] = place(machine, experiment, StudyLayout(folder), "final").trainers
    return SimpleNamespace(
        name="trainer-0", spec=spec, processes=(SimpleNamespace(pid=os.getpid()),), has_device=True, has_answered=True
    )


class WithoutNvml(SpawnBackend):
    async def usage(self, processes: Any, visible: str | None) -> UsageReading:
        return await super().usage(processes, None)


class Unreachable(SpawnBackend):
    async def usage(self, processes: Any, visible: str | None) -> Any:
        return None


def work(
    worker: Any,
    experiment: Experiment,
    folder: Path,
    store: StudyStore,
    error: Exception | None = None,
    backend: Backend | None = None,
) -> None:
    async def body() -> None:
        workers = StudyWorkers(WorkerPool([worker]), WorkerPool([]), backend=backend or WithoutNvml())
        study = StudyContext(store, workers, StudyLayout(folder), experiment)
        async with recording_call(worker, "final-x", 4, "", study):
            if error is not None:
                raise error

    asyncio.run(body())


def test_a_stint_says_where_its_worker_was_and_what_its_processes_used(
    store: StudyStore, experiment: Experiment, tmp_path: Path
) -> None:
    work(worker(experiment, tmp_path, make_machine((3, 5), ())), experiment, tmp_path, store)
    [call] = store.worker_calls()
    assert (call.worker, call.run, call.step, call.pool) == ("trainer-0", "final-x", 4, "")
    assert (call.cpus, call.cuda_visible_devices) == ((3,), None)
    assert call.began <= call.ended
    assert call.cpu_seconds >= 0
    assert call.resident_bytes > 2**20


def test_a_cuda_workers_stint_says_which_devices_it_could_see(
    store: StudyStore, experiment: Experiment, tmp_path: Path
) -> None:
    work(worker(experiment, tmp_path, make_machine((0, 1), ("3", "1"))), experiment, tmp_path, store)
    assert [call.cuda_visible_devices for call in store.worker_calls()] == ["3"]


@pytest.mark.parametrize("error", [None, RuntimeError("no use")])
def test_who_works_at_what_is_announced_until_it_is_over(
    error: Exception | None, store: StudyStore, experiment: Experiment, tmp_path: Path
) -> None:
    listener, new_worker = Listener(), worker(experiment, tmp_path, make_machine((0, 1), ()))
    store.observers.append(listener)
    new_worker.has_answered = False
    with pytest.raises(RuntimeError) if error else nullcontext():
        work(new_worker, experiment, tmp_path, store, error)
    call = OngoingCall("trainer-0", "final-x", 4, "", is_starting=True)
    assert [news for news in listener.heard if isinstance(news, OngoingCall)] == [call, replace(call, is_over=True)]


def test_a_call_on_a_machine_that_tells_nothing_is_a_call_all_the_same(
    store: StudyStore, experiment: Experiment, tmp_path: Path
) -> None:
    new_worker = worker(experiment, tmp_path, make_machine((0, 1), ()))
    work(new_worker, experiment, tmp_path, store, backend=Unreachable())
    [call] = store.worker_calls()
    assert (call.cpu_seconds, call.resident_bytes, call.device_utilization) == (0, 0, None)


def test_what_came_to_nothing_is_no_call(store: StudyStore, experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no use"):
        work(worker(experiment, tmp_path, make_machine((0, 1), ())), experiment, tmp_path, store, RuntimeError("no use"))
    assert store.worker_calls() == []
