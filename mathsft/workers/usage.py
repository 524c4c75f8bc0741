"""Reads what a worker's processes use of the machine at one moment; adds nothing up, and keeps no thread.

The NVML part has been read in NVML's documentation, but no CUDA device was there to run it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from statistics import fmean
from typing import Any, TypeVar

import psutil

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class DeviceReading:
    """A worker's CUDA devices at one moment; None is what NVML does not tell, as of a part of a device."""

    utilization: float | None
    """Mean share of the last moments, a second at most, in which they computed."""
    energy_joules: float | None
    """Since the driver was loaded, all devices together."""
    used_bytes: int | None
    """On the fullest of them, by whatever process."""


@dataclass(frozen=True)
class UsageReading:
    """A worker's processes at one moment, those that they started included."""

    cpu_seconds: Mapping[int, float]
    """Since each of the worker's own processes began, by its id."""
    resident_bytes: int
    device: DeviceReading | None
    """None where the worker has no CUDA device, or another one has it now."""


def read_processes(pids: Sequence[int]) -> tuple[dict[int, float], int]:
    """Return the processor time in seconds and the resident bytes of processes with all that they started.

    What has just ended is passed over, since its parent has its processor time by then, and so is what may not be read.
    """
    cpu_seconds: dict[int, float] = {}
    resident_bytes = 0
    for pid in pids:
        with suppress(psutil.Error):
            worker = psutil.Process(pid)
            for process in (worker, *worker.children(recursive=True)):
                with suppress(psutil.Error), process.oneshot():
                    cpu_seconds[pid] = cpu_seconds.get(pid, 0.0) + sum(process.cpu_times()[:4])  # ended children's, too
                    resident_bytes += process.memory_info().rss
    return cpu_seconds, resident_bytes


class Nvml:
    """NVIDIA's management library, open until it is closed.

    Source: NVML API Reference Guide, "Device Queries". It numbers devices by PCI bus; so does CUDA where they are all of one
    kind, else only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """

    def __init__(self) -> None:
        self._nvml: Any = import_module("pynvml")  # it comes with the extra "cuda"
        self._nvml.nvmlInit()

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def read(self, visible: str) -> DeviceReading:
        """Return what the devices that CUDA_VISIBLE_DEVICES names do now."""
        names, nvml = [name.strip() for name in visible.split(",")], self._nvml
        return DeviceReading(
            self._all_told(fmean, names, lambda device: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
            self._all_told(sum, names, lambda device: nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1000),
            self._all_told(max, names, lambda device: nvml.nvmlDeviceGetMemoryInfo(device).used),
        )

    def _all_told(
        self, together: Callable[[list[Number]], Number], names: Sequence[str], ask: Callable[[Any], Number]
    ) -> Number | None:
        try:
            return together([ask(self._device(name)) for name in names])
        except self._nvml.NVMLError:  # not of this kind of device, or a name that NVML does not know
            return None

    def _device(self, name: str) -> Any:
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)
