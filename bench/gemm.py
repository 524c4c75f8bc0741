"""The yardstick of utilisation on one thread, by CPU-seconds: other processes do not make it look slower than it is."""

import time


def best_bf16_gemm_flops_per_second() -> float:
    """Return the most floating-point operations per CPU-second that this machine's bf16 products reach."""
    import torch

    from mathsft.training.gemm import best_gemm_flops_per_second

    torch.set_num_threads(1)
    return best_gemm_flops_per_second(torch.bfloat16, torch.device("cpu"), clock=time.process_time)
