"""Makes records for tests, with a value for everything that the test does not care about."""

from collections.abc import Sequence

from mathsft.records import Speeds
from mathsft.workers.machine import CudaDevice, Machine

GIB = 2**30


def make_machine(
    cpus: Sequence[int] = (0, 1),
    cuda: Sequence[str] = (),
    *,
    capability: tuple[int, int] | None = (9, 0),
    bf16_flags: tuple[str, ...] = ("avx512_bf16",),
    free_memory_bytes: int = 24 * GIB,
) -> Machine:
    """Return a machine with these cores and CUDA devices, all of one compute capability."""
    return Machine(
        cpus=tuple(cpus),
        bf16_flags=bf16_flags,
        cuda=tuple(CudaDevice(name, capability) for name in cuda),
        free_memory_bytes=free_memory_bytes,
    )


SPEEDS = Speeds(
    ready_seconds=6.0,
    step_seconds=0.024,
    example_seconds=0.005,
    decoded_token_seconds=1e-4,
    read_token_seconds=5e-5,
    prompt_tokens=20.0,
    response_tokens=40.0,
)
"""Of a computer, as if measured with the quickstart."""
