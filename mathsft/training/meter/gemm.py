"""Measures the rate of matrix products in this process: the best rate, for utilisation, and a quick estimate, as a command.

`python -m mathsft.training.meter.gemm` prints the CPU's fp32 and bf16 estimates, in operations per second, as a JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import product

import torch

from mathsft.training.cpu.products import numpy_mm

SIZES = (512, 1024, 2048, 4096, 8192)
"""Sizes of the square matrices. One core reaches its best rate from 512 on; many cores or a GPU need larger matrices."""
_NUM_REPEATS = 4
_MOMENT_SIZE = 192
"""Matrix size of the estimate, small enough for several products in a tenth of a second if bf16 is emulated."""
ENOUGH_SECONDS = 0.1
"""No larger size is started after this time: a few products at full speed are enough."""


def best_gemm_flops_per_second(
    dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the best rate of all sizes, layouts, libraries and repeats, in operations per second of the clock.

    The libraries are torch's and, for fp32 on a CPU, numpy's, because a trainer may use either. Takes some tenths of a
    second, on the current number of torch threads.
    """
    libraries: tuple[Callable[..., torch.Tensor], ...] = (torch.mm,)
    if device.type == "cpu" and dtype == torch.float32:
        libraries += (numpy_mm,)
    started, best = time.perf_counter(), 0.0
    for size in SIZES:
        if time.perf_counter() - started > ENOUGH_SECONDS:
            break
        # A separate generator, because training must not change torch's global one.
        generator = torch.Generator(device).manual_seed(0)
        left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        # A linear layer stores its weight transposed: the forward pass multiplies by right.t(), the backward pass by right.
        for other, mm in product((right, right.t()), libraries):
            mm(left, other)  # the first product of a shape may compile a kernel
            best = max(best, *(_flops_per_second(mm, left, other, clock) for _ in range(_NUM_REPEATS)))
    return best


def cpu_flops_per_second(dtype: torch.dtype) -> float:
    """Return the rate of small products on the CPU, in floating-point operations per second; takes a tenth of a second."""
    left, right = (torch.randn(_MOMENT_SIZE, _MOMENT_SIZE).to(dtype) for _ in range(2))
    torch.mm(left, right)
    started, best = time.perf_counter(), 0.0
    while time.perf_counter() - started < ENOUGH_SECONDS:
        best = max(best, _flops_per_second(torch.mm, left, right, time.perf_counter))
    return best


def _flops_per_second(
    mm: Callable[..., torch.Tensor], left: torch.Tensor, right: torch.Tensor, clock: Callable[[], float]
) -> float:
    """Return the rate of one product of square matrices."""
    _synchronize(left.device)
    before = clock()
    mm(left, right)
    _synchronize(left.device)
    return 2 * len(left) ** 3 / (clock() - before)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"fp32": cpu_flops_per_second(torch.float32), "bf16": cpu_flops_per_second(torch.bfloat16)}))
