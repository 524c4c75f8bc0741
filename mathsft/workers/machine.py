"""Detects what this computer can do, before any worker starts and without torch."""

import logging
import os
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal, TypeAlias

import psutil

from mathsft.workers.usage import Nvml

logger = logging.getLogger(__name__)

Precision: TypeAlias = Literal["bf16", "fp32"]

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU flags of instructions that multiply bf16: two of x86, one of Arm. Without them torch converts each operand, and a
matrix product takes 30 to 200 times as long as in fp32. Source: Linux, Documentation/arch/x86/cpuinfo.rst and
Documentation/arch/arm64/elf_hwcaps.rst."""
BF16_CAPABILITY = (8, 0)
"""The first CUDA compute capability with bf16 tensor cores. Source: CUDA C++ Programming Guide, "Compute Capabilities"."""


@dataclass(frozen=True)
class CudaDevice:
    """One CUDA device."""

    name: str
    """Its name in CUDA_VISIBLE_DEVICES: an index or a UUID."""
    capability: tuple[int, int] | None
    """Compute capability; None if NVML does not report it."""


@dataclass(frozen=True)
class Machine:
    """The hardware that this process may use, and what it can do."""

    cpus: tuple[int, ...]
    """Processor cores."""
    bf16_flags: tuple[str, ...]
    """The processor's flags among BF16_FLAGS; empty for a processor that only emulates bf16."""
    cuda: tuple[CudaDevice, ...]
    free_memory_bytes: int
    """Main memory, not that of CUDA devices."""

    @property
    def multiplies_bf16(self) -> bool:
        """Return whether the training device multiplies bf16 natively: all CUDA devices if there are any, else the CPU."""
        if self.cuda:
            return all(device.capability is None or device.capability >= BF16_CAPABILITY for device in self.cuda)
        return bool(self.bf16_flags)

    @property
    def auto_precision(self) -> Precision:
        """Return the value that training.precision "auto" stands for on this machine."""
        return "bf16" if self.multiplies_bf16 else "fp32"

    @property
    def bf16_evidence(self) -> str:
        """Return the reason for `multiplies_bf16` in words."""
        if self.cuda:
            capabilities = [device.capability for device in self.cuda if device.capability is not None]
            lowest = ".".join(map(str, min(capabilities))) if capabilities else "unknown"
            return f"CUDA compute capability {lowest}, native bf16 needs {'.'.join(map(str, BF16_CAPABILITY))}"
        if self.bf16_flags:
            return f"the CPU has {', '.join(self.bf16_flags)}"
        return f"the CPU has none of {', '.join(BF16_FLAGS)}"


def detect_machine() -> Machine:
    """Return the cores that this process may use, the CUDA devices that torch can use, and the free memory."""
    return Machine(
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        bf16_flags=bf16_flags(CPUINFO.read_text(encoding="utf-8", errors="replace")),
        cuda=() if metadata.version("torch").endswith("+cpu") else _cuda_devices(os.environ.get("CUDA_VISIBLE_DEVICES")),
        free_memory_bytes=psutil.virtual_memory().available,
    )


def bf16_flags(cpuinfo: str) -> tuple[str, ...]:
    """Return the flags in BF16_FLAGS that every processor in the text of /proc/cpuinfo has."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    # The line is called "flags" on x86 and "Features" on Arm.
    processors = [set(flags.split()) for name, _, flags in lines if name.strip() in ("flags", "Features")]
    return tuple(flag for flag in BF16_FLAGS if processors and all(flag in flags for flags in processors))


def visible_cuda_devices(num_installed: int, visible: str | None) -> tuple[str, ...]:
    """Return the devices' names in the order of CUDA_VISIBLE_DEVICES; like CUDA, stop at the first invalid name.

    Source: CUDA C++ Programming Guide, "CUDA environment variables".
    """
    if visible is None or num_installed == 0:
        return tuple(str(index) for index in range(num_installed))
    names: list[str] = []
    for name in visible.split(","):
        is_index = name.strip().isdigit() and int(name) < num_installed
        if not is_index and not name.strip().startswith(("GPU-", "MIG-")):
            break
        names.append(name.strip())
    return tuple(names)


def _cuda_devices(visible: str | None) -> tuple[CudaDevice, ...]:
    try:
        nvml_error: type[Exception] = import_module("pynvml").NVMLError
    except ImportError:  # pynvml comes with the extra "cuda"
        return ()
    try:
        with closing(Nvml()) as nvml:
            names = visible_cuda_devices(nvml.num_devices(), visible)
            return tuple(CudaDevice(name, nvml.capability(name)) for name in names)
    except nvml_error as error:  # no driver, no device, or no permission
        logger.info("no CUDA device is used: NVML reports: %s", error)
        return ()
