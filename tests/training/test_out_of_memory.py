"""Wherever a device runs out of memory, the step ends in the same update or in an error that says what to change.

The device is a fake one (fake_device.py), which refuses memory as CUDA's allocator does.
"""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mathsft.config.schema import TrainingSettings
from mathsft.training.cpu.memory import OutOfMemoryError
from mathsft.training.host_buffers import HostBuffers
from mathsft.training.logprob_check import NUM_CHECK_TOKENS, make_logprob_check
from mathsft.training.meter.peak_memory import predicted_peak
from mathsft.training.state import BaseModel, load_base
from mathsft.training.step import TrainingStep
from tests.native import needs_bf16
from tests.training.fake_device import CUDA, ByteBudget, FakeCuda
from tests.training.gradients import random_batch

MakeModel = Callable[..., Path]
CPU = torch.device("cpu")
BATCH = random_batch(0, prefix_tokens=0)
SEVERAL_ROWS, ONE_ROW = 120, 4096
NO_OPTIMIZER, NO_EXAMPLE, NO_UPDATE = (
    "weights, gradients and AdamW's moments of ",
    "the longest example of step 1, ",
    "the update of step 1 does not fit into memory: CUDA out of memory. ",
)


def new_step(
    base: BaseModel,
    device: torch.device = CPU,
    budget_tokens: int = ONE_ROW,
    *,
    offload: bool = False,
    **training: object,
) -> TrainingStep:
    settings = {"learning_rate": 1e-2, "batch_size": len(BATCH), "precision": "fp32", "token_budget_tokens": budget_tokens}
    return TrainingStep(base, TrainingSettings(**(settings | training)), 4, device, offload=offload)


def copied(step: TrainingStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.tensors().items()}


def assert_same_update(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare gradients by the moments; the weights of a first step are decided by the gradients' signs."""
    for name, tensor in expected.items():
        tolerance = 1e-4 if name.startswith("moment") else 1e-3
        assert (actual[name] - tensor).norm() <= tolerance * tensor.norm(), name


def end(base: BaseModel, budget: ByteBudget, expected: dict[str, Tensor], **options: object) -> str:
    """Take a step on the budgeted device and return how it ended, or the beginning of its error."""
    try:
        with device_of(budget, options.get("device", CPU)):
            step = new_step(base, **options)
            step.take(BATCH, 1)
    except OutOfMemoryError as error:
        [beginning] = [start for start in (NO_OPTIMIZER, NO_EXAMPLE, NO_UPDATE) if str(error).startswith(start)]
        assert "Of the allocated memory" not in str(error)
        assert "; free some" in str(error) or "; lower training.max_length_tokens" in str(error)
        return beginning
    assert_same_update(copied(step), expected)
    return "whole" if step.max_fitting_tokens is None else "halved"


@contextmanager
def device_of(budget: ByteBudget, device: torch.device) -> Iterator[None]:
    with budget, FakeCuda(budget) if device == CUDA else nullcontext():
        yield


@pytest.fixture
def base(make_model: MakeModel) -> BaseModel:
    return load_base(make_model(), "tree")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "checkpointing", "offload"),
    [(CPU, False, False), (CPU, True, False), (CUDA, False, False), (CUDA, True, True)],
)
def test_a_step_with_any_amount_of_memory_gives_the_same_update_or_a_clear_error(
    base: BaseModel, device: torch.device, checkpointing: bool, offload: bool
) -> None:
    options = {"device": device, "gradient_checkpointing": checkpointing, "offload": offload}
    whole = ByteBudget()
    with device_of(whole, device):
        step = new_step(base, **options)
        held = whole.held
        step.take(BATCH, 1)
        assert whole.held == held, "a step leaves nothing behind"
    expected, num_parts = copied(step), 2 if offload else 1
    ends = [
        end(base, ByteBudget(whole.peak * share // 40), expected, **options) for share in range(num_parts, 41, num_parts)
    ]
    assert ends[-1] == "whole"
    order = [NO_OPTIMIZER, NO_EXAMPLE, "halved", "whole"]
    assert sorted(ends, key=order.index) == ends, "more memory never ends worse"
    assert set(ends) == set(order)


def test_a_shortage_at_any_moment_of_a_step_ends_in_the_same_update_or_in_a_clear_error(base: BaseModel) -> None:
    """Another process may take the memory at any time, so the shortage need not be at the peak."""
    counter = ByteBudget()
    with counter:
        step = new_step(base)
        num_before = counter.num_allocations
        step.take(BATCH, 1)
    expected = copied(step)
    moments = [*range(1, num_before + 1), *range(num_before + 1, counter.num_allocations, 23)]
    moments += range(counter.num_allocations - 3, counter.num_allocations + 1)
    ends = Counter(end(base, ByteBudget(failing=moment), expected) for moment in moments)
    assert ends["whole"] == 0
    assert ends[NO_OPTIMIZER] == num_before
    assert ends["halved"] > 20
    assert ends[NO_UPDATE] >= 1
    assert ends[NO_EXAMPLE] == 0, "the budget of tokens is large"


def test_what_was_found_to_fit_holds_for_the_next_run(base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    peaks = []
    for budget_tokens in (SEVERAL_ROWS, ONE_ROW):
        with ByteBudget() as unlimited:
            new_step(base, budget_tokens=budget_tokens).take(BATCH, 1)
        peaks.append(unlimited.peak)
    caplog.set_level(logging.WARNING)
    with ByteBudget(sum(peaks) // 2):
        first = new_step(base)
        first.take(BATCH, 1)
        num_warnings = len(caplog.records)
        assert num_warnings >= 1
        training, max_fitting_tokens = first._training, first.max_fitting_tokens
        del first
        later = TrainingStep(base, training, 4, CPU, max_fitting_tokens=max_fitting_tokens)
        later.take(BATCH, 1)
        assert later.max_fitting_tokens == max_fitting_tokens
    assert len(caplog.records) == num_warnings


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_bf16), "fp32"])
def test_parking_moves_everything_there_and_back_to_the_bit(base: BaseModel, precision: str, offload: bool) -> None:
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA, precision=precision)
        step.take(BATCH, 1)
        step.take(BATCH, 2)
        expected = copied(step)
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA, precision=precision, offload=offload)
        step.take(BATCH, 1)
        held = budget.held
        step.move_to(CPU)
        assert budget.held == 0, "a parked run leaves the device empty"
        step.move_to(CUDA)
        assert budget.held == held
        step.take(BATCH, 2)
        actual = copied(step)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("offload", [False, True])
def test_a_run_that_cannot_come_back_to_the_device_says_so_and_comes_back_later(base: BaseModel, offload: bool) -> None:
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA, offload=offload)
        step.take(BATCH, 1)
        held = budget.held
        for share in (0.1, 0.5, 0.99):
            step.move_to(CPU)
            budget.num_bytes = held * share
            with pytest.raises(
                OutOfMemoryError, match=r"of \d[\d,]+ parameters do not fit into the memory of cuda: .*; free"
            ):
                step.move_to(CUDA)
            budget.num_bytes = 1e12
        step.move_to(CUDA)
        step.take(BATCH, 2)
        actual = copied(step)
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA)
        step.take(BATCH, 1)
        step.take(BATCH, 2)
        expected = copied(step)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_a_run_that_the_host_cannot_take_says_so(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA)

        def refuse(self: HostBuffers, *args: object) -> Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nFrames:")

        with monkeypatch.context() as patched:
            patched.setattr(HostBuffers, "get", refuse)
            with pytest.raises(OutOfMemoryError, match=r"do not fit into host memory: .* 9 bytes\.; free some"):
                step.move_to(CPU)
        assert step.take(BATCH, 1).is_finite, "what could not be moved is where it was"


@pytest.mark.slow
def test_the_logprob_check_needs_a_copy_of_the_weights_and_says_so(base: BaseModel) -> None:
    token_ids = tuple(range(1, NUM_CHECK_TOKENS + 1))
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA)
        before = copied(step)
        held = budget.peak = budget.held
        expected = make_logprob_check(base.model, base.weights, token_ids, torch.float32)
        needed = budget.peak
        for limit in range(held, needed, (needed - held) // 12 + 1):
            budget.num_bytes = limit
            with pytest.raises(OutOfMemoryError, match=r"^the logprob check's copy of the weights does not fit into mem"):
                make_logprob_check(base.model, base.weights, token_ids, torch.float32)
            gc.collect()  # the error's traceback
            assert budget.held == held
        budget.num_bytes = needed
        assert make_logprob_check(base.model, base.weights, token_ids, torch.float32) == expected
        assert all(torch.equal(tensor, before[name]) for name, tensor in step.tensors().items())


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_bf16), "fp32"])
def test_the_peak_of_a_step_on_the_device_is_near_the_predicted_one(make_model: MakeModel, precision: str) -> None:
    base = load_base(make_model(hidden_size=128, intermediate_size=256, num_hidden_layers=4, head_dim=32), "tree")
    with ByteBudget() as budget, FakeCuda(budget):
        step = new_step(base, CUDA, precision=precision)
        predicted = predicted_peak(base, step._training, step.largest_micro_batch(BATCH), CUDA)
        step.take(BATCH, 1)
    assert predicted is not None
    assert 0.9 < budget.peak / predicted.total < 1.15
