"""Predicted memory: of activations against what autograd keeps, in all against what the process came to hold."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mathsft.config.schema import TrainingSettings
from mathsft.footprint import activation_bytes
from mathsft.records import Example
from mathsft.training.batching.microbatches import MicroBatch, common_prefix
from mathsft.training.meter.dimensions import dimensions_of
from mathsft.training.meter.peak_memory import micro_batch_size, predicted_peak
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.state import load_base
from mathsft.training.step import DTYPES, TrainingStep
from tests.native import needs_bf16

MakeModel = Callable[..., Path]
CPU = torch.device("cpu")
PRECISIONS = [pytest.param("bf16", marks=needs_bf16), "fp32"]
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "head_dim": 16}


def examples(num_prompt_tokens: int, num: int = 12) -> list[Example]:
    prefix = tuple(range(1, 30))
    return [
        Example("", prefix + tuple(range(40 + n, 40 + n + num_prompt_tokens)), (*range(1, 20 + n % 3), 0))
        for n in range(num)
    ]


def kept_bytes(loss: MicroBatchLoss, row: MicroBatch) -> int:
    """Return the bytes of all tensors that the row's backward pass will need, parameters excluded, shared ones once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = loss(row)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in loss.parameters()}
    del graph
    return sum(num_bytes for pointer, num_bytes in kept.items() if pointer not in parameters)


@pytest.mark.parametrize("attention", ["tree", "eager"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_prompt_tokens", [20, 150])
def test_activations_are_those_that_autograd_keeps(
    make_model: MakeModel, attention: str, precision: str, num_prompt_tokens: int
) -> None:
    base = load_base(make_model(**SIZES), attention)
    training = TrainingSettings(learning_rate=1e-3, batch_size=12, precision=precision)
    batch = examples(num_prompt_tokens)
    step = TrainingStep(base, training, 1, CPU, common_prefix(batch))
    row = step.largest_micro_batch(batch)
    sizes = dimensions_of(base.model)
    assert sizes is not None
    # The head's gradient in fp32 and the hidden states' are the loss's.
    of_loss = 4 * 257 * 64 + 2 * len(row.targets_N) * 64
    kept = kept_bytes(MicroBatchLoss(base.model), row) - of_loss
    size = micro_batch_size(sizes, row, attention, DTYPES[training.precision])
    assert activation_bytes(sizes, size, training, "cpu") == pytest.approx(kept, rel=0.06)


def test_checkpointing_and_a_smaller_budget_are_predicted_to_take_less(make_model: MakeModel) -> None:
    base = load_base(make_model(**SIZES), "tree")
    batch = examples(40)

    def predicted(**settings: object) -> int:
        training = TrainingSettings(learning_rate=1e-3, batch_size=12, precision="fp32", **settings)
        row = TrainingStep(base, training, 1, CPU, common_prefix(batch)).largest_micro_batch(batch)
        assert row.ids_BT.numel() <= training.token_budget_tokens
        found = predicted_peak(base, training, row, CPU)
        assert found is not None
        return found.total

    assert 0 < predicted(token_budget_tokens=300) < predicted()
    assert predicted(gradient_checkpointing=True) < predicted()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_that_a_step_allocates_is_near_the_prediction(make_model: MakeModel, precision: str) -> None:
    folder = make_model(hidden_size=128, intermediate_size=256, num_hidden_layers=4, head_dim=32)
    gc.collect()
    before = allocated_bytes()
    base = load_base(folder, "tree")
    batch = examples(40, num=40)
    # One row for the whole batch: the prediction is for the largest row there can be.
    training = TrainingSettings(learning_rate=1e-3, batch_size=40, precision=precision, token_budget_tokens=4096)
    step = TrainingStep(base, training, 1, CPU, common_prefix(batch))
    row = step.largest_micro_batch(batch)
    peak = 0

    def look(*_: object) -> None:
        nonlocal peak
        peak = max(peak, allocated_bytes() - before)

    for module in base.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_full_backward_pre_hook(look)
    step.take(batch, 1)
    predicted = predicted_peak(base, training, row, CPU)
    assert predicted is not None
    assert 0.9 < peak / predicted.total < 1.15
    num_parameters = sum(parameter.numel() for parameter in base.model.parameters())
    assert predicted.optimizer == 8 * num_parameters
    assert predicted.gradients >= 4 * num_parameters
    assert predicted.weights >= (8 if precision == "fp32" else 6) * num_parameters, "the base model's, too"


def allocated_bytes() -> int:
    """Return what this process has allocated and not freed. Source: glibc, malloc.h."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = tuple(
            (name, ctypes.c_size_t)
            for name in [
                "arena",
                "ordblks",
                "smblks",
                "hblks",
                "hblkhd",
                "usmblks",
                "fsmblks",
                "uordblks",
                "fordblks",
                "keepcost",
            ]
        )

    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    now = mallinfo2()
    return now.hblkhd + now.uordblks
