"""Measures the best rate of matrix products on one thread, by CPU-seconds, so that other processes do not falsify it."""

import time


def best_gemm_flops_per_second(precision: str) -> float:
    """Return the highest rate of this machine's matrix products in bf16 or fp32, in FLOP per CPU-second."""
    import torch

    from mathsft.training.meter import gemm
    from mathsft.training.step import DTYPES

    torch.set_num_threads(1)
    return gemm.best_gemm_flops_per_second(DTYPES[precision], torch.device("cpu"), clock=time.process_time)
