"""The memory of the loss; its values and gradients are held against transformers by test_step.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mathsft import footprint
from mathsft.footprint import ITEM_BYTES, block_tokens, chunk_tokens, loss_bytes
from mathsft.records import Example
from mathsft.training.batching.microbatches import MicroBatch, Packing, packed_micro_batches
from mathsft.training.meter.dimensions import dimensions_of
from mathsft.training.model import loss as loss_module
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.state import load_base
from tests.native import needs_bf16
from tests.training.fake_device import ByteBudget

MakeModel = Callable[..., Path]


def make_row(num_targets: int) -> MicroBatch:
    packing = Packing((), 10_000, 0, 1)
    [row] = packed_micro_batches([Example("", (1, 2), (3,) * num_targets)], packing, torch.device("cpu"))
    return row


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_bf16), "fp32"])
@pytest.mark.parametrize(("chunk", "block"), [(10_000, 10_000), (40, 40), (40, 3)])
def test_the_losss_peak_is_the_predicted_one(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, precision: str, chunk: int, block: int
) -> None:
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    monkeypatch.setattr(footprint, "CHUNK_LOGITS", 257 * chunk)
    monkeypatch.setattr(footprint, "BLOCK_LOGITS", {"cpu": 257 * block})
    base = load_base(make_model(), "tree")
    row = make_row(300)
    hidden_BTE = torch.randn(1, row.ids_BT.shape[1], 32, dtype=dtype, requires_grad=True)
    monkeypatch.setattr(loss_module, "hidden_states", lambda model, row: hidden_BTE)
    base.model.to(dtype)
    with ByteBudget() as budget:
        MicroBatchLoss(base.model)(row).backward()
    sizes = dimensions_of(base.model)
    assert sizes is not None
    assert loss_bytes(sizes, len(row.targets_N), ITEM_BYTES[precision], "cpu") == pytest.approx(budget.peak, rel=0.05)


def test_blocks_of_the_loss_are_chosen_by_device() -> None:
    found = {(kind, size): block_tokens(size, kind) for kind in ("cpu", "cuda") for size in (512, 151_936)}
    # 441 tokens have 2 ** 26 logits. Chunks are even: three of 332 tokens, not two of 441 and one of 114.
    assert [chunk_tokens(151_936, num) for num in (1, 441, 442, 996)] == [1, 441, 221, 332]
    assert found == {("cpu", 512): 512, ("cpu", 151_936): 1, ("cuda", 512): 32_768, ("cuda", 151_936): 110}


def test_a_backward_pass_that_does_not_start_at_the_loss_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"the gradient of the loss is 2\.0, not 1: call backward\(\) of the loss itself"):
        (2 * MicroBatchLoss(load_base(make_model(), "tree").model)(make_row(20))).backward()
