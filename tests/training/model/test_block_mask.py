"""flex_attention's mask, which is made on the host, is the one that torch makes of all pairs of tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask
from torch.utils._python_dispatch import TorchDispatchMode

from mathsft.records import Example
from mathsft.training.batching.microbatches import MicroBatch, Packing, packed_micro_batches
from mathsft.training.model.block_mask import BLOCK_TOKENS, with_block_masks

CPU = torch.device("cpu")


def make_rows(seed: int, num_questions: int, prefix_tokens: int, packing: tuple[int, int, int, int]) -> list[MicroBatch]:
    """Make rows of questions of random lengths, some with several solutions."""
    generator = torch.Generator().manual_seed(seed)

    def number(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    prefix = tuple(range(1, prefix_tokens + 1))
    batch = []
    for question in range(num_questions):
        prompt = (*prefix, *(1000 + question + n for n in range(1 + number(60))))
        batch += [Example("", prompt, (2,) * (1 + number(300))) for _ in range(1 + number(3))]
    return packed_micro_batches(batch, Packing(prefix, *packing), CPU)


def pairs(row: MicroBatch) -> torch.Tensor:
    """Return, T x T, whether a query (first) attends to a key, as the docstring of the groups has it."""
    length = row.ids_BT.shape[1]
    expected = torch.eye(length, dtype=torch.bool)
    above: list[list[int]] = []
    for group in row.groups:
        path = above[group.parent] if group.parent >= 0 else []
        for start in range(group.start, group.start + group.count * group.length, group.length):
            own = list(range(start, start + group.length))
            for query in own:
                expected[query, path + own[: query - start + 1]] = True
        above.append(path + own)
    return expected


@pytest.mark.slow
@settings(derandomize=True, deadline=None)  # a busy machine is slow
@given(
    seed=st.integers(0, 1000),
    num_questions=st.integers(1, 8),
    prefix_tokens=st.sampled_from([0, 20, 150]),
    packing=st.sampled_from([(2000, 0, BLOCK_TOKENS, 256), (500, 0, BLOCK_TOKENS, 256), (1000, 20, 8, 0)]),
)
def test_the_mask_is_torchs_own(seed: int, num_questions: int, prefix_tokens: int, packing: tuple[int, ...]) -> None:
    for row in with_block_masks(make_rows(seed, num_questions, prefix_tokens, packing)):
        length = row.ids_BT.shape[1]
        mask = row.block_mask
        assert mask is not None
        assert torch.equal(create_mask(mask.mask_mod, 1, 1, length, length, device="cpu")[0, 0], pairs(row))
        expected = create_block_mask(mask.mask_mod, B=None, H=None, Q_LEN=length, KV_LEN=length, device="cpu")
        assert mask.shape == expected.shape
        assert mask.BLOCK_SIZE == expected.BLOCK_SIZE == (BLOCK_TOKENS, BLOCK_TOKENS)
        for name in BlockMask._TENSOR_ATTRS:
            own, torchs = getattr(mask, name), getattr(expected, name)
            assert (own is None) == (torchs is None), name
            if own is not None:
                assert own.dtype == torchs.dtype, name
                assert torch.equal(own, torchs), name


def test_blocks_of_all_three_kinds_occur() -> None:
    [row] = with_block_masks(make_rows(0, 8, 300, (10_000, 0, BLOCK_TOKENS, 256)))
    mask = row.block_mask
    assert mask is not None
    num_blocks = row.ids_BT.shape[1] // BLOCK_TOKENS
    num_partial, num_full = int(mask.kv_num_blocks.sum()), int(mask.full_kv_num_blocks.sum())
    assert num_partial > num_blocks
    assert num_full > 0
    assert num_partial + num_full < num_blocks * (num_blocks + 1) // 2, "siblings do not attend to each other"


def test_no_tensor_has_the_square_of_the_rows_tokens() -> None:
    [row] = make_rows(1, 8, 150, (10_000, 0, BLOCK_TOKENS, 256))
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            sizes.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Sizes():
        with_block_masks([row])
    num_tokens = row.ids_BT.numel()
    assert num_tokens > 10 * BLOCK_TOKENS
    assert max(sizes) < num_tokens + 10 * (num_tokens // BLOCK_TOKENS) ** 2


def test_the_masks_of_all_rows_of_a_step_reach_the_device_in_one_copy() -> None:
    rows = make_rows(0, 8, 150, (1000, 0, BLOCK_TOKENS, 256))
    assert len(rows) > 2
    on_device = [replace(row, ids_BT=row.ids_BT.to("meta")) for row in rows]
    copies = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten._to_copy.default and result.device.type == "meta":
                copies.append(kwargs["non_blocking"])
            return result

    with Copies():
        masks = [row.block_mask for row in with_block_masks(on_device)]
    assert copies == [True], "and the host does not wait for it"
    assert all(mask is not None and mask.kv_indices.device.type == "meta" for mask in masks)
    assert with_block_masks([]) == []


@pytest.mark.parametrize("num_tokens", [1, 127, 128, 129, 255, 300])
def test_a_row_on_cuda_has_two_blocks_or_more(num_tokens: int) -> None:
    """torch.compile treats a dimension of size 1 as a constant and would compile once more for it."""
    batch = [Example("", (1,), (2,) * num_tokens)]
    [row] = packed_micro_batches(batch, Packing((), 1000, 0, BLOCK_TOKENS, 2 * BLOCK_TOKENS), CPU)
    assert row.ids_BT.shape[1] == (256 if num_tokens <= 256 else 384)
