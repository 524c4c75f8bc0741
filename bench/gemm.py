"""The yardstick of utilisation on one thread, by CPU-seconds: other processes do not make it look slower than it is."""

import time


def best_gemm_flops_per_second(precision: str) -> float:
    """Return the most floating-point operations per CPU-second that this machine's products reach, bf16 or fp32."""
    import torch

    from mathsft.training.meter import gemm
    from mathsft.training.step import DTYPES

    torch.set_num_threads(1)
    return gemm.best_gemm_flops_per_second(DTYPES[precision], torch.device("cpu"), clock=time.process_time)
