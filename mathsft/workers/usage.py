"""Reads what NVML says of CUDA devices, and which resources a worker's processes use at one moment.

The NVML part follows NVML's documentation; it has not been run, because there was no CUDA device.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from statistics import fmean
from typing import Any, TypeVar

import psutil

logger = logging.getLogger(__name__)

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class DeviceReading:
    """A worker's CUDA devices at one moment; a field is None if NVML does not report it, as for a MIG instance."""

    utilization: float | None
    """Share of the last second, at most, in which they computed; mean over the devices."""
    energy_joules: float | None
    """Since NVIDIA's driver was loaded, sum of all devices."""
    used_bytes: int | None
    """On the device with the most memory in use, by all processes."""


@dataclass(frozen=True)
class UsageReading:
    """A worker's processes and their descendants at one moment."""

    cpu_seconds: Mapping[int, float]
    """Since the start of each of the worker's own processes, by its id."""
    resident_bytes: int
    device: DeviceReading | None
    """None if the worker has no CUDA device, or another worker holds it now."""


def read_processes(pids: Sequence[int]) -> tuple[dict[int, float], int]:
    """Return the processor seconds, by process, and the resident bytes of processes and their descendants.

    A process that has just ended is skipped, since its parent has its processor time by then; so is an unreadable process.
    """
    cpu_seconds: dict[int, float] = {}
    resident_bytes = 0
    for pid in pids:
        with suppress(psutil.Error):
            worker = psutil.Process(pid)
            for process in (worker, *worker.children(recursive=True)):
                with suppress(psutil.Error), process.oneshot():
                    cpu_seconds[pid] = cpu_seconds.get(pid, 0.0) + sum(process.cpu_times()[:4])  # and ended children's
                    resident_bytes += process.memory_info().rss
    return cpu_seconds, resident_bytes


class Nvml:
    """NVIDIA's management library, open until `close`.

    Source: NVML API Reference Guide, "Device Queries". NVML numbers devices by PCI bus. CUDA does the same if all devices
    are of one kind, else only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """

    def __init__(self) -> None:
        self._nvml: Any = import_module("pynvml")  # pynvml comes with the extra "cuda"
        self._nvml.nvmlInit()

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def num_devices(self) -> int:
        return int(self._nvml.nvmlDeviceGetCount())

    def driver(self) -> str:
        """Return the driver's version, such as "580.65.06"."""
        return str(self._nvml.nvmlSystemGetDriverVersion())

    def uuid(self, index: int) -> str:
        """Return a device's name that begins with "GPU-"."""
        return str(self._nvml.nvmlDeviceGetUUID(self._device(str(index))))

    def capability(self, name: str) -> tuple[int, int] | None:
        """Return the compute capability of a device; None if NVML does not report it."""
        try:
            major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(self._device(name))
        except self._nvml.NVMLError as error:
            logger.info("CUDA device %s: NVML does not report its compute capability: %s", name, error)
            return None
        return int(major), int(minor)

    def memory(self, name: str) -> tuple[int, int] | None:
        """Return the total and the free bytes of a device's memory; None if NVML does not report them."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._device(name))
        except self._nvml.NVMLError as error:  # Jetson has no memory of its own
            logger.info("CUDA device %s: NVML does not report its memory: %s", name, error)
            return None
        return int(memory.total), int(memory.free)

    def is_split(self, name: str) -> bool:
        """Return whether a device is split into MIG instances."""
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(self._device(name))
        except self._nvml.NVMLError:  # not for this kind of device
            return False
        return int(current) == int(self._nvml.NVML_DEVICE_MIG_ENABLE)

    def read(self, visible: str) -> DeviceReading:
        """Return the present usage of the devices that this value of CUDA_VISIBLE_DEVICES names."""
        names, nvml = [name.strip() for name in visible.split(",")], self._nvml
        return DeviceReading(
            self._combined(fmean, names, lambda device: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
            self._combined(sum, names, lambda device: nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1000),
            self._combined(max, names, lambda device: nvml.nvmlDeviceGetMemoryInfo(device).used),
        )

    def _combined(
        self, combine: Callable[[list[Number]], Number], names: Sequence[str], read: Callable[[Any], Number]
    ) -> Number | None:
        try:
            return combine([read(self._device(name)) for name in names])
        except self._nvml.NVMLError:  # not for this kind of device, or NVML does not know the name
            return None

    def _device(self, name: str) -> Any:
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)
