"""Makes flex_attention's masks of packed rows on the host, from the rows' groups and without a T x T mask."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from mathsft.training.batching.microbatches import MicroBatch

BLOCK_TOKENS = 128
"""Queries and keys of a block. Source: _DEFAULT_SPARSE_BLOCK_SIZE of torch.nn.attention.flex_attention."""

_ALIGNMENT = 32
"""Every part of the copied tensor starts at a multiple of this many int32: kernels read aligned tensors without a copy."""


def with_block_masks(rows: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Return packed rows with their masks: a token attends to earlier tokens on the path from the root, and to itself.

    A mask has the tensors of create_block_mask, which would compute all T x T pairs on the device. Those of all rows, which
    must be on one device, reach it in one copy.
    """
    parts_by_row = [_parts(row) for row in rows]
    if not rows:
        return []
    moved = iter(_in_one_copy([part for parts in parts_by_row for part in parts], rows[0].ids_BT.device))
    return [
        replace(row, block_mask=_block_mask(row.ids_BT.shape[1], [next(moved) for _ in parts]))
        for row, parts in zip(rows, parts_by_row, strict=True)
    ]


def _parts(row: MicroBatch) -> list[Tensor]:
    """Return the tensors of a row's mask on the host, int32, in the order in which _block_mask takes them."""
    length = row.ids_BT.shape[1]
    ends = _ends(row)
    # Blocks of queries I by blocks of keys J. Keys are earlier than the queries of all blocks below the diagonal.
    num_blocks = -(-length // BLOCK_TOKENS)
    ends_JK = torch.nn.functional.pad(ends, (0, num_blocks * BLOCK_TOKENS - length)).view(num_blocks, BLOCK_TOKENS)
    starts_I1 = torch.arange(num_blocks)[:, None] * BLOCK_TOKENS
    is_below_IJ = torch.ones(num_blocks, num_blocks, dtype=torch.bool).tril(-1)
    is_full_IJ = is_below_IJ & (ends_JK.amin(1) >= starts_I1 + BLOCK_TOKENS)
    is_used_IJ = is_below_IJ & (ends_JK.amax(1) > starts_I1) | torch.eye(num_blocks, dtype=torch.bool)
    is_partial_IJ = is_used_IJ & ~is_full_IJ
    grids = (is_partial_IJ, is_full_IJ, is_partial_IJ.t(), is_full_IJ.t())
    return [ends, *(part[None, None] for grid in grids for part in _ordered(grid))]


def _block_mask(length: int, parts: Sequence[Tensor]) -> BlockMask:
    ends_T, kv_counts, kv, full_kv_counts, full_kv, q_counts, q, full_q_counts, full_q = parts

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_T[key])

    return BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=kv_counts,
        kv_indices=kv,
        full_kv_num_blocks=full_kv_counts,
        full_kv_indices=full_kv,
        q_num_blocks=q_counts,
        q_indices=q,
        full_q_num_blocks=full_q_counts,
        full_q_indices=full_q,
        BLOCK_SIZE=(BLOCK_TOKENS, BLOCK_TOKENS),
        mask_mod=attends,
    )


def _ends(row: MicroBatch) -> Tensor:
    """Return for every token the end of the range of tokens that attend to it, int32; the range starts with the token."""
    # Descendants directly follow their segment, so the tokens that attend to a token are a range.
    ends = list(range(1, row.ids_BT.shape[1] + 1))
    subtree_ends = [group.start + group.count * group.length for group in row.groups]
    for group, subtree_end in zip(reversed(row.groups), reversed(subtree_ends), strict=True):
        if group.parent >= 0:
            subtree_ends[group.parent] = max(subtree_ends[group.parent], subtree_end)
        for start in range(group.start, group.start + group.count * group.length, group.length):
            end = subtree_end if group.count == 1 else start + group.length
            ends[start : start + group.length] = [end] * group.length
    return torch.tensor(ends, dtype=torch.int32)


def _ordered(is_used_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of used columns of every row, and the columns of every row, the used ones first, int32."""
    columns_RC = is_used_RC.int().argsort(dim=1, descending=True, stable=True)
    return is_used_RC.sum(1).int(), columns_RC.int()


def _in_one_copy(parts: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return int32 tensors of the host on the device, moved by one copy for which the host does not wait."""
    starts, end = [], 0
    for part in parts:
        starts.append(end)
        end += -(-part.numel() // _ALIGNMENT) * _ALIGNMENT
    host = torch.zeros(end, dtype=torch.int32, pin_memory=device.type == "cuda")
    for start, part in zip(starts, parts, strict=True):
        host[start : start + part.numel()] = part.flatten()
    moved = host.to(device, non_blocking=True)
    # Dynamo would guard on the base of a view, whose size is another one in every step; a detached tensor has no base.
    return [moved[start : start + part.numel()].view(part.shape).detach() for start, part in zip(starts, parts, strict=True)]
