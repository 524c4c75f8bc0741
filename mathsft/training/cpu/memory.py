"""How this process gets memory from the system, how much it has, and how it is told that there is no more."""

import ctypes
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""mallopt's parameters. Source: glibc, malloc.h."""

_SHORTAGES = (
    "can't allocate memory",  # torch on a CPU. Source: c10/core/impl/alloc_cpu.cpp
    "bad_alloc",  # what C++ calls a failing `new`
    "CUDA error: out of memory",  # a kernel's launch or a stream. Source: CUDA Runtime API, cudaError
    "Triton Error [CUDA]: out of memory",  # loading a kernel. Source: triton, third_party/nvidia/backend/driver.c
    "CUBLAS_STATUS_ALLOC_FAILED",  # a workspace. Source: cuBLAS Library, cublasStatus_t
)
"""Words for memory that ran out, where there is no exception of its own."""


def keep_freed_memory() -> None:
    """Make malloc keep what is freed: steps need the same large blocks again, and fresh pages cost more than some products.

    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 64 * 2**20)


def is_shortage(error: BaseException) -> bool:
    """Tell whether the error means that memory ran out, of the device or of the host; then the process may work on."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in _SHORTAGES)


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Return the most memory that this process has held at any time."""
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    # Not getrusage, whose peak is that of the parent where it was higher when this process began.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no line {name}")
