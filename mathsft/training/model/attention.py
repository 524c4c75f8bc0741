"""Attention over packed rows, registered with transformers as "tree" (for a CPU) and "flex" (for CUDA).

"tree" computes a product, a softmax and a product for each group of segments; a token's keys are those on its path to the
root. "flex" calls flex_attention once for the whole row, with a mask made from the same groups. A model that needs more than
a causal softmax (sliding window, ALiBi, soft cap, sinks, recurrent states) is not packed: it gets padded micro-batches.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from mathsft.records import Example
from mathsft.training.batching.microbatches import (
    NO_TARGET,
    Group,
    MicroBatch,
    Packing,
    packed_micro_batches,
    padded_micro_batches,
)
from mathsft.training.model.block_mask import with_block_masks

logger = logging.getLogger(__name__)

TREE = "tree"
FLEX = "flex"
EAGER = "eager"
_FALLBACK = {TREE: EAGER, FLEX: "sdpa"}
"""Attention for models that cannot be packed: the fastest of transformers for short rows on the same device."""

_FP32_UP_TO_TOKENS = 128
"""oneDNN compiles a bf16 product for every new shape (0.5 to 1 ms). MKL's fp32 needs none and is faster for short paths."""

_SMALL_SHARED_MEMORY = ((8, 6), (8, 9))
"""Compute capabilities of which a block of threads has 99 KB of shared memory, while torch tunes flex_attention for the
163 KB of 8.0. Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"."""

_UNSUPPORTED_ARGUMENTS = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments with which a model of transformers requests more than a causal softmax."""


class _UnsupportedAttentionError(Exception):
    """A model requested an attention that packed rows do not support."""


def choose_attention(model: PreTrainedModel, attention: str) -> str:
    """Set the model's attention and return its name: this one, or one for padded rows if packing changes outputs.

    The model must be in fp32 on the host.
    """
    for name in _FALLBACK:
        AttentionInterface.register(name, _packed_attention)
    if attention in _FALLBACK and (reason := _reason_against_packing(model)):
        attention = _FALLBACK[attention]
        text = "%s cannot be packed: %s; training uses padded rows and %s attention"
        logger.warning(text, type(model).__name__, reason, attention)
    model.set_attn_implementation(attention)
    return attention


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switch the model to eager attention while the body runs: packed attention needs a row's segments as an argument."""
    attention = model.config._attn_implementation
    model.set_attn_implementation(EAGER)
    try:
        yield
    finally:
        model.set_attn_implementation(attention)


def with_masks(attention: str, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
    """Return the micro-batches of a step with all that this attention needs on the device."""
    return with_block_masks(micro_batches) if attention == FLEX else micro_batches


def hidden_states(model: PreTrainedModel, micro_batch: MicroBatch) -> Tensor:
    """Return the last hidden states of the model's base for a micro-batch (of `with_masks`), B x T x E."""
    arguments: dict[str, Any] = {}
    if micro_batch.groups:
        is_flex = model.config._attn_implementation == FLEX
        segments = micro_batch.block_mask if is_flex else SegmentTree(micro_batch.groups)
        arguments = {"segments": segments, "position_ids": micro_batch.positions_BT}
    hidden_BTE: Tensor = model.base_model(input_ids=micro_batch.ids_BT, use_cache=False, **arguments).last_hidden_state
    return hidden_BTE


@torch.no_grad()
def _reason_against_packing(model: PreTrainedModel) -> str:
    """Compare hidden states of a packed and a padded micro-batch; return the reason against packing or an empty string."""
    if not model._supports_attention_backend:
        return "its attention cannot be replaced"
    vocabulary = model.get_input_embeddings().num_embeddings
    # No token occurs twice, so that targets identify the hidden states.
    tokens = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0)).tolist()
    prefix, question, other = (tuple(tokens[start : start + 16]) for start in (0, 16, 32))
    responses = (tuple(tokens[48:54]), tuple(tokens[54:66]), tuple(tokens[66:70]))
    prompts = (prefix + question, prefix + question, prefix + other)
    batch = [Example("", prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    packing = Packing(prefix, budget_tokens=1024, group_padding_tokens=0, row_multiple_tokens=1)
    cpu = torch.device("cpu")
    with eager_attention(model):
        expected = _hidden_by_target(model, padded_micro_batches(batch, 1024, cpu))
    try:
        model.set_attn_implementation(TREE)
        actual = _hidden_by_target(model, packed_micro_batches(batch, packing, cpu))
    except _UnsupportedAttentionError as error:
        return str(error)
    same = torch.allclose(actual, expected, rtol=1e-3, atol=1e-4)
    return "" if same else "its hidden states in a packed row differ from those of padded rows"


def _hidden_by_target(model: PreTrainedModel, micro_batches: list[MicroBatch]) -> Tensor:
    """Return the hidden states that predict the targets, sorted by target id."""
    hidden, targets = [], []
    for micro_batch in micro_batches:
        is_target_N = micro_batch.targets_N != NO_TARGET
        hidden.append(hidden_states(model, micro_batch).flatten(0, 1)[micro_batch.predictors_N[is_target_N]])
        targets.append(micro_batch.targets_N[is_target_N])
    return torch.cat(hidden)[torch.cat(targets).argsort()]


@functools.cache
def _compiled_flex() -> Any:
    # With fullgraph, torch raises an error at its limit of recompilations. Without it, torch would silently compute all
    # T x T scores from there on.
    return torch.compile(flex_attention, fullgraph=True)


@functools.cache
def _kernel_options(device: torch.device) -> dict[str, int]:
    return kernel_options(torch.cuda.get_device_capability(device) if device.type == "cuda" else None)


def kernel_options(capability: tuple[int, int] | None) -> dict[str, int]:
    """Return flex_attention's options for devices of this compute capability; None stands for a CPU.

    Where shared memory is small, loads run one stage ahead of the products instead of two.
    """
    return {"num_stages": 2} if capability in _SMALL_SHARED_MEMORY else {}


@dataclass
class SegmentTree:
    """The groups of one packed row, with the masks that all layers share."""

    groups: tuple[Group, ...]
    _masks: dict[int, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def path_lengths(self) -> list[int]:
        """For every group, the number of tokens on the path from the root to the end of one of its segments."""
        lengths: list[int] = []
        for group in self.groups:
            lengths.append(group.length + (lengths[group.parent] if group.parent >= 0 else 0))
        return lengths

    @property
    def num_tokens(self) -> int:
        """Tokens of the row that are in a group; the rest of the row is padding."""
        last = self.groups[-1]
        return last.start + last.count * last.length

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which to compute the row's products, for a model in the given dtype."""
        return torch.float32 if max(self.path_lengths) <= _FP32_UP_TO_TOKENS else dtype

    def mask(self, index: int, num_repeats: int, like: Tensor) -> Tensor:
        """Return the mask that is added to a group's scores, 1 x (num_repeats x M) x L: -inf for later tokens."""
        if index not in self._masks:
            length, path_length = self.groups[index].length, self.path_lengths[index]
            mask_ML = like.new_full((length, path_length), -torch.inf).triu_(path_length - length + 1)
            self._masks[index] = mask_ML.repeat(num_repeats, 1)[None]
        return self._masks[index]


def _packed_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: None,
    *,
    segments: SegmentTree | BlockMask,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row (B = 1), on a CPU with its SegmentTree, on CUDA with its BlockMask."""
    for name in _UNSUPPORTED_ARGUMENTS:
        if arguments.get(name) is not None:
            raise _UnsupportedAttentionError(f"it uses {name}")
    if isinstance(segments, SegmentTree):
        scaling = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
        out_THD: Tensor = _TreeAttention.apply(  # type: ignore[no-untyped-call]
            query_BHTD[0], key_BKTD[0], value_BKTD[0], segments, scaling
        )
        return out_THD[None], None
    # The version of transformers copies keys unless their heads are a power of two.
    is_grouped = query_BHTD.shape[1] != key_BKTD.shape[1]
    out_BHTD: Tensor = _compiled_flex()(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        block_mask=segments,
        scale=scaling,
        enable_gqa=is_grouped,
        kernel_options=_kernel_options(query_BHTD.device),
    )
    return out_BHTD.transpose(1, 2).contiguous(), None


class _TreeAttention(Function):
    """Attention group by group, with its own backward pass, because autograd's overhead is large for short segments.

    Shapes: T tokens, D dimensions, H query heads, K key heads, G segments of M tokens each, L tokens on the path from the
    root to a segment's end, R = H / K query heads per key head.
    """

    @staticmethod
    def forward(
        ctx: Any, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, tree: SegmentTree, scaling: float
    ) -> Tensor:
        num_key_heads, dtype = len(key_KTD), tree.dtype(query_HTD.dtype)
        num_repeats = len(query_HTD) // num_key_heads
        # The token dimension comes first in memory, because the output projection reads it in this order.
        out_THD = query_HTD.new_empty(query_HTD.shape[1], query_HTD.shape[0], query_HTD.shape[2])
        out_THD[tree.num_tokens :] = 0
        paths: list[list[Tensor]] = []
        saved: list[Tensor] = []
        for index, group in enumerate(tree.groups):
            path = [_by_segment(x_KTD, group, num_key_heads)[:, :, 0].to(dtype) for x_KTD in (key_KTD, value_KTD)]
            if group.parent >= 0:
                above = [x_K1LD.expand(-1, group.count, -1, -1) for x_K1LD in paths[group.parent]]
                path = [torch.cat(pair, dim=2) for pair in zip(above, path, strict=True)]
            paths.append(path)
            # All query heads of a key head are rows of one product.
            query_NPD = _by_segment(query_HTD, group, num_key_heads).to(dtype).flatten(2, 3).flatten(0, 1)
            key_NLD, value_NLD = (x_KGLD.flatten(0, 1) for x_KGLD in path)
            mask_1PL = tree.mask(index, num_repeats, query_NPD)
            weight_NPL = torch.baddbmm(mask_1PL, query_NPD, key_NLD.transpose(1, 2), alpha=scaling).softmax(-1)
            attended = torch.bmm(weight_NPL, value_NLD)
            out_KGRMD = _by_segment(out_THD.transpose(0, 1), group, num_key_heads)
            out_KGRMD.copy_(attended.view(out_KGRMD.shape))
            saved += [query_NPD, key_NLD, value_NLD, weight_NPL]
        ctx.save_for_backward(*saved)
        ctx.tree, ctx.scaling, ctx.num_key_heads = tree, scaling, num_key_heads
        return out_THD

    @staticmethod
    def backward(ctx: Any, out_grad_THD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        tree, num_key_heads = ctx.tree, ctx.num_key_heads
        num_tokens, num_heads, num_dims = out_grad_THD.shape
        query_grad_HTD, key_grad_KTD, value_grad_KTD = (
            out_grad_THD.new_empty(num_tokens, heads, num_dims).transpose(0, 1)
            for heads in (num_heads, num_key_heads, num_key_heads)
        )
        for grad in (query_grad_HTD, key_grad_KTD, value_grad_KTD):
            grad[:, tree.num_tokens :] = 0
        saved = ctx.saved_tensors  # gradient checkpointing allows only one access
        from_children: dict[int, list[Tensor]] = {}
        for index, group in reversed(list(enumerate(tree.groups))):
            query_NPD, key_NLD, value_NLD, weight_NPL = saved[4 * index : 4 * index + 4]
            out_grad_KGRMD = _by_segment(out_grad_THD.transpose(0, 1), group, num_key_heads)
            out_grad_NPD = out_grad_KGRMD.to(query_NPD.dtype).flatten(2, 3).flatten(0, 1)
            weight_grad_NPL = torch.bmm(out_grad_NPD, value_NLD.transpose(1, 2))
            score_grad_NPL = torch._softmax_backward_data(weight_grad_NPL, weight_NPL, -1, weight_NPL.dtype)

            query_grad_KGRMD = _by_segment(query_grad_HTD, group, num_key_heads)
            query_grad_NPD = _scaled_product(score_grad_NPL, key_NLD, ctx.scaling)
            query_grad_KGRMD.copy_(query_grad_NPD.view(query_grad_KGRMD.shape))
            key_grad_NLD = _scaled_product(score_grad_NPL.transpose(1, 2), query_NPD, ctx.scaling)
            value_grad_NLD = torch.bmm(weight_NPL.transpose(1, 2), out_grad_NPD)
            path_grads = [x_NLD.view(num_key_heads, group.count, -1, num_dims) for x_NLD in (key_grad_NLD, value_grad_NLD)]
            for path_grad_KGLD, child_grad_KGLD in zip(path_grads, from_children.pop(index, []), strict=False):
                path_grad_KGLD += child_grad_KGLD
            for grad_KTD, path_grad_KGLD in zip((key_grad_KTD, value_grad_KTD), path_grads, strict=True):
                _by_segment(grad_KTD, group, num_key_heads)[:, :, 0].copy_(path_grad_KGLD[:, :, -group.length :])
            if group.parent >= 0:
                to_parent = [path_grad_KGLD[:, :, : -group.length].sum(1, keepdim=True) for path_grad_KGLD in path_grads]
                if earlier := from_children.get(group.parent):
                    to_parent = [grad.add_(other) for grad, other in zip(earlier, to_parent, strict=True)]
                from_children[group.parent] = to_parent
        return query_grad_HTD, key_grad_KTD, value_grad_KTD, None, None


def _scaled_product(left_NPL: Tensor, right_NLD: Tensor, scaling: float) -> Tensor:
    """Return the product times the scaling, without an extra pass over the product."""
    out_NPD = left_NPL.new_empty(len(left_NPL), left_NPL.shape[1], right_NLD.shape[2])
    return out_NPD.baddbmm_(left_NPL, right_NLD, beta=0, alpha=scaling)  # beta = 0 ignores the uninitialised values


def _by_segment(x_HTD: Tensor, group: Group, num_key_heads: int) -> Tensor:
    """Return the group's part of the tensor as a view, K x G x R x M x D."""
    part_HTD = x_HTD[:, group.start : group.start + group.count * group.length]
    return part_HTD.view(num_key_heads, -1, group.count, group.length, x_HTD.shape[-1]).transpose(1, 2)
