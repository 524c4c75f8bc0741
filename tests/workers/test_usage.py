"""Readings of real processes; of NVML only the way through its names, since no CUDA device is here."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from mathsft.workers.usage import DeviceReading, Nvml, read_processes

BUSY_PARENT = """
import subprocess, sys
code = "sum(range(10**6)); print(1, flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", "import sys; " + code], stdin=subprocess.PIPE)
print(2, flush=True)
input()
"""


def test_a_process_counts_with_all_that_it_started() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY_PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert {parent.stdout.readline(), parent.stdout.readline()} == {"1\n", "2\n"}  # both are up
        alone = psutil.Process(parent.pid).memory_info().rss
        cpu_seconds, resident_bytes = read_processes([parent.pid])
        parent.kill()
    assert cpu_seconds[parent.pid] > 0
    assert resident_bytes > 1.5 * alone


def test_what_has_ended_is_passed_over() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    cpu_seconds, resident_bytes = read_processes([ended.pid, os.getpid()])
    assert set(cpu_seconds) == {os.getpid()}
    assert resident_bytes > 0


class FakeNvmlError(Exception):
    pass


def test_devices_are_found_by_number_or_name_and_what_nvml_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def energy(device: str) -> int:
        if device == "GPU-7":
            raise FakeNvmlError("Not Supported")
        return {"2": 3_000, "5": 4_000}[device]

    fake = SimpleNamespace(
        NVMLError=FakeNvmlError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=str,
        nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu={"2": 40, "5": 80}.get(device, 10)),
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used={"2": 10, "5": 30}.get(device, 1)),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    nvml = Nvml()
    assert nvml.read("2, 5") == DeviceReading(pytest.approx(0.6), 7.0, 30)
    assert nvml.read("GPU-7") == DeviceReading(0.1, None, 1)
    nvml.close()
