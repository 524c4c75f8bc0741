"""Says which CPU a bench runs on and which instructions it has: figures of two CPUs are not comparable."""

import os
import platform
import re
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
"""Flags in /proc/cpuinfo that decide how fast matrix products are; the last is Arm's."""

CAPS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables by which oneDNN, torch and MKL use fewer instructions than the CPU has."""


def cpu_line() -> str:
    """Return one line: the CPU's name, its usable cores, its instructions for matrix products, and caps in force."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    name = found[1] if found else platform.machine()
    instructions = " ".join(flag for flag in INSTRUCTIONS if flag in _flags()) or "neither AVX2 nor bf16"
    caps = "".join(f"; {variable}={os.environ[variable]}" for variable in CAPS if variable in os.environ)
    return f"CPU: {name}, {len(os.sched_getaffinity(0))} cores, {instructions}{caps}"


def native_bf16() -> bool:
    """Return whether this CPU multiplies bf16 matrices itself; others emulate it, many times slower than fp32."""
    return not _flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def _flags() -> set[str]:
    """Return the flags of the first core; x86 calls the line flags, Arm calls it Features."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8")
