"""Describes the CPU that a bench runs on, because the figures of two CPUs are not comparable."""

import os
import platform
import re
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
"""Flags in /proc/cpuinfo that determine the speed of matrix products; the last one is Arm's."""

CAPS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")
"""Environment variables that make oneDNN, torch, MKL and OpenBLAS use fewer instruction sets than the CPU has."""


def cpu_line() -> str:
    """Return one line with the CPU's name, usable cores, instruction sets for matrix products, and the caps that are set."""
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    name = match[1] if match else platform.machine()
    instructions = " ".join(flag for flag in INSTRUCTIONS if flag in _flags()) or "neither AVX2 nor bf16"
    caps = "".join(f"; {variable}={os.environ[variable]}" for variable in CAPS if variable in os.environ)
    return f"CPU: {name}, {len(os.sched_getaffinity(0))} cores, {instructions}{caps}"


def native_bf16() -> bool:
    """Return whether this CPU has bf16 matrix products; a CPU without them emulates bf16, many times slower than fp32."""
    return not _flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def _flags() -> set[str]:
    """Return the flags of the first core; the line is named flags on x86 and Features on Arm."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return set(match[1].split()) if match else set()


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8")
