"""Memory of this process: settings of malloc, resident size, and recognition and explanation of out-of-memory errors."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""mallopt's parameters. Source: glibc, malloc.h."""

_MESSAGE_PARTS = (
    "can't allocate memory",  # torch on a CPU. Source: c10/core/impl/alloc_cpu.cpp
    "bad_alloc",  # a failed `new` in C++
    "CUDA error: out of memory",  # a kernel's launch or a stream. Source: CUDA Runtime API, cudaError
    "Triton Error [CUDA]: out of memory",  # loading a kernel. Source: triton, third_party/nvidia/backend/driver.c
    "CUBLAS_STATUS_ALLOC_FAILED",  # a workspace. Source: cuBLAS Library, cublasStatus_t
)
"""Parts of the messages of out-of-memory errors that have no exception class of their own."""


class OutOfMemoryError(Exception):
    """Something does not fit into memory; the message says what, and what to change."""


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, because every step needs the same large blocks and new pages are expensive."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 64 * 2**20)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error means that the device or the host ran out of memory; the process remains usable after it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in _MESSAGE_PARTS)


@contextmanager
def explained_shortage(what: str, advice: str) -> Iterator[None]:
    """Raise OutOfMemoryError with these words (what does not fit; what to change) if memory runs out in the body."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{what}: {first_line(error)}; {advice}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]


def status_bytes(name: str) -> int:
    """Return a size of this process in /proc/self/status: VmRSS is its resident memory, VmHWM the peak of it.

    getrusage would return the parent's peak if that was higher when this process started.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(fields[name].split()[0]) * 1024
