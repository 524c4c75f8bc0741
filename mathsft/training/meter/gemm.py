"""Measures how fast this process multiplies matrices: at its best, for utilisation, and in a moment, as a command.

`python -m mathsft.training.meter.gemm` prints a JSON object: the rates of fp32 and bf16 on the CPU, in operations a second.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

SIZES = (512, 1024, 2048, 4096, 8192)
"""Of square matrices: a processor core is at its best from 512 on, whatever the shape, many cores or a GPU later."""
NUM_REPEATS = 4
MOMENT_SIZE = 192
"""Small enough for several products in a tenth of a second where bf16 is emulated."""
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


def cpu_flops_per_second(dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of small products on the CPU; takes a tenth of a second."""
    left, right = (torch.randn(MOMENT_SIZE, MOMENT_SIZE).to(dtype) for _ in range(2))
    torch.mm(left, right)
    started, best = time.perf_counter(), 0.0
    while time.perf_counter() - started < ENOUGH_SECONDS:
        before = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * MOMENT_SIZE**3 / (time.perf_counter() - before))
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"fp32": cpu_flops_per_second(torch.float32), "bf16": cpu_flops_per_second(torch.bfloat16)}))
