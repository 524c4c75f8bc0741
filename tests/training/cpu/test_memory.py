"""A trainer whose memory runs out, for real: the kernel refuses a process what is over its limit."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mathsft.training.cpu.memory import is_out_of_memory

SCRIPT = Path(__file__).with_name("short_of_memory.py")
HEADROOM_BYTES = 100_000_000
"""Less than a step needs that computes 8,192 tokens at once, more than one that computes 512."""


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "std::bad_alloc",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Triton Error [CUDA]: out of memory",
    ],
)
def test_a_shortage_is_known_by_its_words(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_a_shortage_has_exceptions_of_its_own_and_no_other_error_is_one() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376"))


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_taken_in_smaller_rows_and_an_example_that_does_not_is_refused(
    make_model: Callable[..., Path],
) -> None:
    model = make_model(hidden_size=128, intermediate_size=512, head_dim=32)
    done = subprocess.run([sys.executable, SCRIPT, model, str(HEADROOM_BYTES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "memory ran out with 8192 tokens at once; from now on 4096" in done.stderr
    result = json.loads(done.stdout)
    loss, expected_loss, loss_after = result["losses"]
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert result["error"] < 1e-4
    assert loss_after == expected_loss
    assert result["refused"].startswith("the longest example of step 1, 8192 tokens, does not fit into memory even alone: ")
    assert "you tried to allocate" in result["refused"]
    before, found, later = result["max_fitting_tokens"]
    assert before is None and later <= found < 8192
    assert done.stderr.count("memory ran out with 8192 tokens") == 1, "a later run begins with what was found to fit"
    assert re.match(r"weights, gradients and AdamW's moments of [\d,]+ parameters do not fit into m", result["no_optimizer"])
