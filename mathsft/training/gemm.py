"""Measures the yardstick of utilisation: how fast this process multiplies matrices at its best. Knows nothing of models."""

import time
from collections.abc import Callable

import torch

SIZES = (512, 1024, 2048, 4096, 8192)
"""Of square matrices: a processor core is at its best from 512 on, whatever the shape, many cores or a GPU later."""
NUM_REPEATS = 4
ENOUGH_SECONDS = 0.1
"""No larger size is begun after this: a few products at full speed are all that the yardstick needs."""


def best_gemm_flops_per_second(
    dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the most floating-point operations per second by the clock, of all sizes, layouts and repeats.

    Takes some tenths of a second, on as many threads as torch uses now.
    """
    started, best = time.perf_counter(), 0.0
    for size in SIZES:
        if time.perf_counter() - started > ENOUGH_SECONDS:
            break
        # Not torch's global generator: training leaves no trace in it.
        generator = torch.Generator(device).manual_seed(0)
        left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        # A linear layer keeps its weight transposed; the forward pass reads it so, the backward pass as it lies.
        for other in (right, right.t()):
            torch.mm(left, other)  # the first of its kind may compile a kernel
            for _ in range(NUM_REPEATS):
                _synchronize(device)
                before = clock()
                torch.mm(left, other)
                _synchronize(device)
                best = max(best, 2 * size**3 / (clock() - before))
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
