"""Attention over packed rows, registered with transformers; which kind a device uses is placement's choice.

"tree" is for a CPU: one product, softmax and product per group of segments, whose keys are their own and those above them.
"flex" is for CUDA: one flex_attention over the whole row, its mask made from the same groups. A model whose attention is
more than that (a sliding window, ALiBi, soft caps, sinks, states carried along the row) keeps its own and gets plain rows.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from mathsft.records import Example
from mathsft.training.batching.microbatches import NO_TARGET, Group, MicroBatch, Packing, packed_rows, plain_rows

logger = logging.getLogger(__name__)

TREE = "tree"
FLEX = "flex"
PACKED = (TREE, FLEX)
EAGER = "eager"
_PLAIN = {TREE: EAGER, FLEX: "sdpa"}
"""What a model gets on the same device if it cannot be packed: each is the fastest there for short rows."""

_FP32_UP_TO_TOKENS = 128
"""oneDNN compiles a bf16 product for every new shape (0.5 to 1 ms), MKL's fp32 product starts at once: faster if short."""

_BEYOND_PACKING = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments by which transformers' models ask their attention for more than a causal softmax."""


class _NotCoveredError(Exception):
    """A model asked its attention for what packed rows do not know."""


def choose_attention(model: PreTrainedModel, attention: str) -> str:
    """Make the model use this attention or, if packed rows would change what it computes, a plain one; return which.

    The model is in fp32 on the host.
    """
    AttentionInterface.register(TREE, _tree_attention)
    AttentionInterface.register(FLEX, _flex_attention)
    if attention in PACKED:
        reason = _why_not_packed(model)
        if reason:
            plain = _PLAIN[attention]
            logger.warning(
                "%s cannot be packed: %s; training uses padded rows and %s attention", type(model).__name__, reason, plain
            )
            attention = plain
    model.set_attn_implementation(attention)
    return attention


def attention_arguments(model: PreTrainedModel, row: MicroBatch) -> dict[str, Any]:
    """Return what the model's forward is to pass on to its attention for this row."""
    if not row.groups:
        return {}
    if model.config._attn_implementation == FLEX:
        return {"position_ids": row.positions_BT, "block_mask": block_mask(row)}
    return {"position_ids": row.positions_BT, "tree": SegmentTree(row.groups)}


@torch.no_grad()
def _why_not_packed(model: PreTrainedModel) -> str:
    """Compare a packed row's hidden states with those of plain rows; return what differs, nothing if they agree."""
    if not model._supports_attention_backend:
        return "its attention is its own"
    vocabulary = model.get_input_embeddings().num_embeddings
    # No token comes twice, so that targets tell which hidden state is which.
    tokens = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0)).tolist()
    prefix, question, other = (tuple(tokens[start : start + 16]) for start in (0, 16, 32))
    responses = (tuple(tokens[48:54]), tuple(tokens[54:66]), tuple(tokens[66:70]))
    prompts = (prefix + question, prefix + question, prefix + other)
    batch = [Example("", prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    packing = Packing(prefix, token_budget_tokens=1024, group_padding_tokens=0, row_multiple_tokens=1)
    cpu = torch.device("cpu")
    model.set_attn_implementation("eager")
    expected = _hidden_by_target(model, plain_rows(batch, 1024, cpu))
    try:
        model.set_attn_implementation(TREE)
        actual = _hidden_by_target(model, packed_rows(batch, packing, cpu))
    except _NotCoveredError as error:
        return str(error)
    same = torch.allclose(actual, expected, rtol=1e-3, atol=1e-4)
    return "" if same else "what a token computes there depends on its neighbours in the row"


def _hidden_by_target(model: PreTrainedModel, rows: list[MicroBatch]) -> Tensor:
    """Return the hidden states that predict the rows' targets, in the order of the targets."""
    hidden, targets = [], []
    for row in rows:
        is_target_N = row.targets_N != NO_TARGET
        hidden_BTE = model.base_model(
            input_ids=row.ids_BT, use_cache=False, **attention_arguments(model, row)
        ).last_hidden_state
        hidden.append(hidden_BTE.flatten(0, 1)[row.predictors_N[is_target_N]])
        targets.append(row.targets_N[is_target_N])
    return torch.cat(hidden)[torch.cat(targets).argsort()]


def _check_covered(arguments: dict[str, Any]) -> None:
    for name in _BEYOND_PACKING:
        if arguments.get(name) is not None:
            raise _NotCoveredError(f"it uses {name}")


def block_mask(row: MicroBatch) -> BlockMask:
    """Return flex_attention's mask of a packed row: a token sees those before it on the path from the root."""
    length = row.ids_BT.shape[1]
    # Descendants directly follow their segment, so what may look at a token is all from it up to some end.
    ends = list(range(1, length + 1))
    subtree_ends = _subtree_ends(row.groups)
    for group, subtree_end in zip(row.groups, subtree_ends, strict=True):
        for start in range(group.start, group.start + group.count * group.length, group.length):
            end = subtree_end if group.count == 1 else start + group.length
            ends[start : start + group.length] = [end] * group.length
    ends_T = torch.tensor(ends, device=row.ids_BT.device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_T[key])

    return create_block_mask(sees, B=None, H=None, Q_LEN=length, KV_LEN=length, device=row.ids_BT.device)


def _subtree_ends(groups: tuple[Group, ...]) -> list[int]:
    ends = [group.start + group.count * group.length for group in groups]
    for group, end in zip(reversed(groups), reversed(ends), strict=True):
        if group.parent >= 0:
            ends[group.parent] = max(ends[group.parent], end)
    return ends


def _flex_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: None,
    *,
    block_mask: BlockMask,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row on CUDA; transformers' own repeats keys unless their heads are a power of two."""
    _check_covered(arguments)
    out_BHTD = _compiled_flex()(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        block_mask=block_mask,
        scale=scaling,
        enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
    )
    return out_BHTD.transpose(1, 2).contiguous(), None


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(flex_attention)
    return compiled


@dataclass
class SegmentTree:
    """The groups of one row, with what all of its layers share."""

    groups: tuple[Group, ...]
    _masks: dict[int, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def path_lengths(self) -> list[int]:
        """Of every group: the tokens that its segments' last token sees."""
        lengths: list[int] = []
        for group in self.groups:
            lengths.append(group.length + (lengths[group.parent] if group.parent >= 0 else 0))
        return lengths

    @property
    def num_tokens(self) -> int:
        """Tokens of the row that are in a group; what follows only pads."""
        last = self.groups[-1]
        return last.start + last.count * last.length

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the precision of the row's products, for a model of the given one."""
        return torch.float32 if max(self.path_lengths) <= _FP32_UP_TO_TOKENS else dtype

    def mask(self, index: int, num_repeats: int, like: Tensor) -> Tensor:
        """Return what is added to a group's scores, 1 x (num_repeats x M) x L: -inf for tokens yet to come."""
        if index not in self._masks:
            length, path_length = self.groups[index].length, self.path_lengths[index]
            mask_ML = like.new_full((length, path_length), -torch.inf).triu_(path_length - length + 1)
            self._masks[index] = mask_ML.repeat(num_repeats, 1)[None]
        return self._masks[index]


def _tree_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: None,
    *,
    tree: SegmentTree,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row (B = 1)."""
    _check_covered(arguments)
    scaling = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    out_THD: Tensor = _TreeAttention.apply(  # type: ignore[no-untyped-call]
        query_BHTD[0], key_BKTD[0], value_BKTD[0], tree, scaling
    )
    return out_THD[None], None


class _TreeAttention(Function):
    """Attention group by group, with a backward of its own: autograd's bookkeeping would cost more than short segments do.

    Besides T tokens, D dimensions, H query heads and K key heads, shapes have G segments of M tokens each, L tokens on the
    path from the root to a segment's end, and R = H / K query heads to a key head.
    """

    @staticmethod
    def forward(
        ctx: Any, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, tree: SegmentTree, scaling: float
    ) -> Tensor:
        num_key_heads, dtype = len(key_KTD), tree.dtype(query_HTD.dtype)
        num_repeats = len(query_HTD) // num_key_heads
        # Tokens first: so the next layer wants it.
        out_THD = query_HTD.new_empty(query_HTD.shape[1], query_HTD.shape[0], query_HTD.shape[2])
        out_THD[tree.num_tokens :] = 0
        paths: list[tuple[Tensor, Tensor]] = []
        saved: list[Tensor] = []
        for index, group in enumerate(tree.groups):
            key_KGLD = _by_segment(key_KTD, group, num_key_heads)[:, :, 0].to(dtype)
            value_KGLD = _by_segment(value_KTD, group, num_key_heads)[:, :, 0].to(dtype)
            if group.parent >= 0:
                above = (path.expand(-1, group.count, -1, -1) for path in paths[group.parent])
                key_KGLD, value_KGLD = (torch.cat(pair, dim=2) for pair in zip(above, (key_KGLD, value_KGLD), strict=True))
            paths.append((key_KGLD, value_KGLD))
            # All query heads of a key head are rows of one product.
            query_NPD = _by_segment(query_HTD, group, num_key_heads).to(dtype).flatten(2, 3).flatten(0, 1)
            key_NLD, value_NLD = key_KGLD.flatten(0, 1), value_KGLD.flatten(0, 1)
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
        saved = ctx.saved_tensors  # under gradient checkpointing they can be asked for only once
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
            path_grads = [
                grad_NLD.view(num_key_heads, group.count, -1, num_dims)
                for grad_NLD in (
                    _scaled_product(score_grad_NPL.transpose(1, 2), query_NPD, ctx.scaling),
                    torch.bmm(weight_NPL.transpose(1, 2), out_grad_NPD),
                )
            ]
            for path_grad_KGLD, child_grad_KGLD in zip(path_grads, from_children.pop(index, []), strict=False):
                path_grad_KGLD += child_grad_KGLD
            for grad_KTD, path_grad_KGLD in zip((key_grad_KTD, value_grad_KTD), path_grads, strict=True):
                _by_segment(grad_KTD, group, num_key_heads)[:, :, 0].copy_(path_grad_KGLD[:, :, -group.length :])
            if group.parent >= 0:
                to_parent = [path_grad_KGLD[:, :, : -group.length].sum(1, keepdim=True) for path_grad_KGLD in path_grads]
                if group.parent in from_children:
                    to_parent = [
                        grad.add_(other) for grad, other in zip(from_children[group.parent], to_parent, strict=True)
                    ]
                from_children[group.parent] = to_parent
        return query_grad_HTD, key_grad_KTD, value_grad_KTD, None, None


def _scaled_product(left_NPL: Tensor, right_NLD: Tensor, scaling: float) -> Tensor:
    """Return the product times the scaling, which costs nothing where the product is written."""
    out_NPD = left_NPL.new_empty(len(left_NPL), left_NPL.shape[1], right_NLD.shape[2])
    return out_NPD.baddbmm_(left_NPL, right_NLD, beta=0, alpha=scaling)  # with beta = 0 nothing is read from it


def _by_segment(x_HTD: Tensor, group: Group, num_key_heads: int) -> Tensor:
    """Return the group's part of the tensor as a view, K x G x R x M x D."""
    part_HTD = x_HTD[:, group.start : group.start + group.count * group.length]
    return part_HTD.view(num_key_heads, -1, group.count, group.length, x_HTD.shape[-1]).transpose(1, 2)
