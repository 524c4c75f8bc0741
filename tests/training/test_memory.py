"""A trainer whose memory runs out, for real: the kernel refuses a process what is over its limit."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("short_of_memory.py")
HEADROOM_BYTES = 100_000_000
"""Less than a step needs that computes 8,192 tokens at once, more than one that computes 512."""


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
