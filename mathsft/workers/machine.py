"""Detects what this computer can do, before any worker starts and without torch."""

import logging
import os
import re
from collections.abc import Sequence
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
MIN_CAPABILITY = (7, 5)
"""The first capability that CUDA 13 supports. Source: CUDA Toolkit 13.0 Release Notes, "Deprecated Architectures"."""
MIN_DRIVER_CUDA_12, MIN_DRIVER_CUDA_13 = 525, 580
"""The first driver for each CUDA version. Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1."""


@dataclass(frozen=True)
class CudaDevice:
    """One CUDA device."""

    name: str
    """Its index in NVML's order, which CUDA_VISIBLE_DEVICES uses with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    capability: tuple[int, int] | None
    """Compute capability; None if NVML does not report it."""
    total_memory_bytes: int | None = None
    """None if NVML does not report it, and so for the free memory."""
    free_memory_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """The hardware that this process may use, and what it can do."""

    cpus: tuple[int, ...]
    """Processor cores."""
    bf16_flags: tuple[str, ...]
    """The processor's flags among BF16_FLAGS; empty for a processor that only emulates bf16."""
    cuda: tuple[CudaDevice, ...]
    """The devices that can be used."""
    free_memory_bytes: int
    """Main memory, not that of CUDA devices."""
    cpu_vendor: str = ""
    """Vendor of an x86 processor, as "AuthenticAMD"; empty for others."""
    name: str = ""
    """The name of a cluster's node; empty for this computer."""
    refused_devices: tuple[str, ...] = ()
    """A line for each visible CUDA device that cannot be used, or one for all of them: what is wrong, and what to change."""

    @property
    def is_slow_with_mkl(self) -> bool:
        """Return whether torch's fp32 products, which are those of Intel's MKL, are slow on this CPU (measured on AMD)."""
        return self.cpu_vendor == "AuthenticAMD"

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
    torch_version = metadata.version("torch")
    cuda: tuple[CudaDevice, ...] = ()
    refused: tuple[str, ...] = ()
    if not torch_version.endswith("+cpu"):
        cuda, refused = _cuda_devices(torch_version, os.environ.get("CUDA_VISIBLE_DEVICES"))
    cpuinfo = CPUINFO.read_text(encoding="utf-8", errors="replace")
    return Machine(
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        bf16_flags=bf16_flags(cpuinfo),
        cuda=cuda,
        free_memory_bytes=psutil.virtual_memory().available,
        cpu_vendor=cpu_vendor(cpuinfo),
        refused_devices=refused,
    )


def bf16_flags(cpuinfo: str) -> tuple[str, ...]:
    """Return the flags in BF16_FLAGS that every processor in the text of /proc/cpuinfo has."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    # The line is called "flags" on x86 and "Features" on Arm.
    processors = [set(flags.split()) for name, _, flags in lines if name.strip() in ("flags", "Features")]
    return tuple(flag for flag in BF16_FLAGS if processors and all(flag in flags for flags in processors))


def cpu_vendor(cpuinfo: str) -> str:
    """Return the vendor_id in the text of /proc/cpuinfo; only x86 processors have one."""
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    return vendor[1] if vendor else ""


def visible_cuda_devices(uuids: Sequence[str], visible: str | None) -> tuple[str, ...]:
    """Return the devices in the order of CUDA_VISIBLE_DEVICES: indices, and names of MIG instances as they are.

    uuids are those of the installed devices. A UUID may be shortened while it is unique. Like CUDA, stop at the first
    invalid name. Source: CUDA C++ Programming Guide, "CUDA environment variables".
    """
    if visible is None or not uuids:
        return tuple(str(index) for index in range(len(uuids)))
    names: list[str] = []
    for name in map(str.strip, visible.split(",")):
        named = [str(index) for index, uuid in enumerate(uuids) if name.startswith("GPU-") and uuid.startswith(name)]
        if (name.isdigit() and int(name) < len(uuids)) or name.startswith("MIG-"):
            named = [name]
        if len(named) != 1:
            break
        names += named
    return tuple(names)


def driver_refusal(driver: str, torch_version: str) -> str:
    """Return why this version of the driver cannot be used with this build of torch, or an empty string if it can."""
    build = re.search(r"\+cu(\d\d)", torch_version)  # PyPI's build has no suffix
    cuda, needed = (12, MIN_DRIVER_CUDA_12) if build and build[1] == "12" else (13, MIN_DRIVER_CUDA_13)
    major = driver.partition(".")[0]
    if not major.isdigit() or int(major) >= needed:
        return ""
    return (
        f"the NVIDIA driver is {driver}, and torch {torch_version} (CUDA {cuda}) needs {needed} or later: update the driver"
    )


def device_refusal(name: str, capability: tuple[int, int] | None, *, is_split: bool) -> str:
    """Return why this device cannot be used, or an empty string if it can."""
    if name.startswith("MIG-") or is_split:
        return (
            f"CUDA device {name} is {'an instance' if name.startswith('MIG-') else 'split into instances'} of NVIDIA MIG, "
            "which mathsft does not use: switch MIG off (nvidia-smi -mig 0), or name whole devices in CUDA_VISIBLE_DEVICES"
        )
    if capability is not None and capability < MIN_CAPABILITY:
        found, needed = (".".join(map(str, pair)) for pair in (capability, MIN_CAPABILITY))
        return (
            f"CUDA device {name} has compute capability {found}, and {needed} is needed: name newer devices in "
            "CUDA_VISIBLE_DEVICES, or install the CPU build with HARDWARE=cpu"
        )
    return ""


def _cuda_devices(torch_version: str, visible: str | None) -> tuple[tuple[CudaDevice, ...], tuple[str, ...]]:
    """Return the devices that can be used, and why others cannot."""
    try:
        nvml_error: type[Exception] = import_module("pynvml").NVMLError
    except ImportError:  # pynvml comes with the extra "cuda"
        return (), ()
    try:
        with closing(Nvml()) as nvml:
            names = visible_cuda_devices([nvml.uuid(index) for index in range(nvml.num_devices())], visible)
            if names and (refusal := driver_refusal(nvml.driver(), torch_version)):
                return (), (refusal,)
            return _sorted_out(nvml, names)
    except nvml_error as error:  # no driver, no device, or no permission
        logger.info("no CUDA device is used: NVML reports: %s", error)
        return (), ()


def _sorted_out(nvml: Nvml, names: Sequence[str]) -> tuple[tuple[CudaDevice, ...], tuple[str, ...]]:
    devices: list[CudaDevice] = []
    refusals: list[str] = []
    for name in names:
        capability = nvml.capability(name)
        if refusal := device_refusal(name, capability, is_split=nvml.is_split(name)):
            refusals.append(refusal)
        else:
            devices.append(CudaDevice(name, capability, *(nvml.memory(name) or (None, None))))
    return tuple(devices), tuple(refusals)
