"""Measures the yardstick of utilisation: how fast one thread of this machine multiplies bf16 matrices at its best."""

import time

SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 1536), (4096, 1536, 512))
"""(M, K, N) of an M x K by K x N product: squares that fit each cache, and two as a transformer layer has them."""

NUM_REPEATS = 3


def best_bf16_gemm_flops_per_second() -> float:
    """Return the most floating-point operations per CPU-second of all shapes, both layouts and all repeats."""
    import torch

    torch.set_num_threads(1)
    best = 0.0
    for num_rows, num_inner, num_columns in SHAPES:
        left = torch.randn(num_rows, num_inner).bfloat16()
        right = torch.randn(num_inner, num_columns).bfloat16()
        # A linear layer keeps its weights as N x K; the forward pass reads them so, one of the backward passes as K x N.
        for other in (right, right.t().contiguous().t()):
            torch.mm(left, other)
            for _ in range(NUM_REPEATS):
                started = time.process_time()
                torch.mm(left, other)
                seconds = time.process_time() - started
                best = max(best, 2 * num_rows * num_inner * num_columns / seconds)
    return best
