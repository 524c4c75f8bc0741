"""Splits the examples of an optimizer batch into micro-batches, each for one forward and backward pass.

A packed micro-batch is one row, a tree of segments. The root is the preamble of all prompts. A question with several
responses is a segment below the root, and each response is a leaf below it. A question with one response is a leaf together
with this response. A token attends to the tokens up to itself in its segment and to all segments on the path to the root;
positions continue from the parent. So shared tokens are computed once per row, and each example gets the same hidden states
as alone. A padded micro-batch, for models that cannot be packed, has one example per row, padded on the right.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from mathsft.records import Example

NO_TARGET = -100
"""Marks padding of targets_N, which rounds its length up to a multiple. Source: ignore_index of torch's cross_entropy."""

_TARGETS_MULTIPLE = 32
_MIN_SPARED_TOKENS = 16
"""A segment is shared only if this saves at least this many tokens: each segment costs every layer a few operations."""


@dataclass(frozen=True)
class Packing:
    """How examples become packed rows.

    Sibling segments of similar length form a group, which attention computes at once, if that takes at most
    group_padding_tokens. Rows are padded to a multiple of row_multiple_tokens, and to at least min_row_tokens: a CPU's
    kernels are compiled for every new length, and flex_attention on CUDA once more for a row of a single block.
    """

    prefix_ids: tuple[int, ...]
    budget_tokens: int
    group_padding_tokens: int
    row_multiple_tokens: int
    min_row_tokens: int = 0


@dataclass(frozen=True)
class Group:
    """Sibling segments of one length, side by side in the row: `count` times `length` tokens from `start` on.

    parent is the index of the parent segment's group, or -1. A parent group has one segment. Shorter segments are padded on
    the right to the group's length; no other token attends to this padding.
    """

    start: int
    count: int
    length: int
    parent: int


@dataclass(frozen=True)
class MicroBatch:
    """Some examples of an optimizer batch, computed in one forward and backward pass.

    The hidden state at predictors_N (indices into the flattened B x T) predicts the response token targets_N, unless that is
    NO_TARGET. A packed micro-batch (B = 1) has positions_BT, and groups in depth-first order, parents first; a padded one
    has neither.
    """

    ids_BT: Tensor
    predictors_N: Tensor
    targets_N: Tensor
    num_attended_tokens: int
    """Pairs of a token and a token that it attends to (itself included), with padding: the cost of attention."""
    positions_BT: Tensor | None = None
    groups: tuple[Group, ...] = ()
    block_mask: BlockMask | None = None
    """The groups as flex_attention's mask on the device of the ids, if `with_block_masks` has added it."""


def common_prefix(examples: Sequence[Example]) -> tuple[int, ...]:
    """Return the tokens that every example's prompt begins with."""
    prompts = [example.prompt_ids for example in examples]
    # A prefix that the first and the last prompt in sorted order share is shared by all prompts between them.
    pairs = zip(min(prompts, default=()), max(prompts, default=()), strict=False)
    return tuple(token for token, other in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def packed_micro_batches(batch: Sequence[Example], packing: Packing, device: torch.device) -> list[MicroBatch]:
    """Return the batch as the fewest evenly filled packed rows within the token budget; a longer example gets its own row.

    All prompts must begin with packing.prefix_ids.
    """
    budget_tokens = packing.budget_tokens
    room_tokens = budget_tokens - len(packing.prefix_ids)
    questions = list(_questions(batch, packing))
    longer = [_RowWriter([question], packing) for question in questions if question.num_tokens > room_tokens]
    fitting = [question for question in questions if question.num_tokens <= room_tokens]
    num_tokens = sum(question.num_tokens for question in fitting)
    for num_parts in range(max(1, -(-num_tokens // budget_tokens)), len(fitting)):
        rows = [_RowWriter(part, packing) for part in _even_parts(fitting, num_parts)]
        if all(row.num_tokens <= budget_tokens for row in rows):
            break
    else:  # one question per row, and a row may exceed the budget because of its padding
        rows = [_RowWriter([question], packing) for question in fitting]
    return [row.micro_batch(device) for row in [*longer, *rows]]


def padded_micro_batches(batch: Sequence[Example], budget_tokens: int, device: torch.device) -> list[MicroBatch]:
    """Return the batch as padded micro-batches of at most budget_tokens, or of one longer example."""
    parts: list[list[Example]] = [[]]
    # Examples of similar length need little padding. The longest come first: if memory runs out, it does so at once.
    for example in sorted(batch, key=num_inputs, reverse=True):
        if parts[-1] and (len(parts[-1]) + 1) * num_inputs(parts[-1][0]) > budget_tokens:
            parts.append([])
        parts[-1].append(example)
    return [_padded_micro_batch(part, device) for part in parts]


def _padded_micro_batch(examples: Sequence[Example], device: torch.device) -> MicroBatch:
    width = max(map(num_inputs, examples))
    # No token attends to the padding; its value, 0, is a valid id in every vocabulary.
    ids_BT = torch.zeros(len(examples), width, dtype=torch.long)
    predictors: list[int] = []
    targets: list[int] = []
    for line, example in enumerate(examples):
        ids_BT[line, : num_inputs(example)] = torch.tensor(example.prompt_ids + example.response_ids[:-1])
        start = line * width + len(example.prompt_ids) - 1
        predictors.extend(range(start, start + len(example.response_ids)))
        targets.extend(example.response_ids)
    return MicroBatch(
        ids_BT=ids_BT.to(device),
        predictors_N=torch.tensor(predictors, device=device),
        targets_N=torch.tensor(targets, device=device),
        num_attended_tokens=len(examples) * width * (width + 1) // 2,
    )


def num_inputs(example: Example) -> int:
    """Return the number of input tokens of an example; its last response token is a target only."""
    return len(example.prompt_ids) + len(example.response_ids) - 1


@dataclass(frozen=True)
class _Question:
    """The part of a prompt after the preamble, and the responses to it."""

    ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return len(self.ids) + sum(len(response) - 1 for response in self.responses)


def _questions(batch: Sequence[Example], packing: Packing) -> Iterator[_Question]:
    """Yield each question once with all of its responses, or once per response if sharing saves little or fits no row."""
    responses: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for example in batch:
        responses.setdefault(example.prompt_ids[len(packing.prefix_ids) :], []).append(example.response_ids)
    for ids, responses_to_question in responses.items():
        question = _Question(ids, tuple(responses_to_question))
        is_worth_sharing = len(ids) * (len(responses_to_question) - 1) >= _MIN_SPARED_TOKENS
        if is_worth_sharing and _RowWriter([question], packing).num_tokens <= packing.budget_tokens:
            yield question
        else:
            yield from (_Question(ids, (response,)) for response in responses_to_question)


def _even_parts(questions: Sequence[_Question], num_parts: int) -> list[list[_Question]]:
    """Split the questions, sorted by length, into at most num_parts parts with about equally many tokens."""
    num_tokens = sum(question.num_tokens for question in questions)
    parts: list[list[_Question]] = [[] for _ in range(num_parts)]
    num_before = 0.0
    for question in sorted(questions, key=lambda question: question.num_tokens, reverse=True):
        middle = num_before + question.num_tokens / 2
        parts[min(num_parts - 1, int(middle * num_parts / max(1, num_tokens)))].append(question)
        num_before += question.num_tokens
    return [part for part in parts if part]


class _RowWriter:
    """Writes some questions of a batch into one packed row, each segment directly followed by its descendants."""

    def __init__(self, questions: Sequence[_Question], packing: Packing) -> None:
        self._packing = packing
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._predictors: list[int] = []
        self._targets: list[int] = []
        self._groups: list[Group] = []

        prefix_ids, root = packing.prefix_ids, -1
        if len(prefix_ids) * (len(questions) - 1) >= _MIN_SPARED_TOKENS:
            root = self._write_shared(prefix_ids, parent=-1)
            prefix_ids = ()
        single = [question for question in questions if len(question.responses) == 1]
        self._write_leaves([Example("", prefix_ids + question.ids, question.responses[0]) for question in single], root)
        for question in questions:
            if len(question.responses) > 1:
                parent = self._write_shared(prefix_ids + question.ids, root)
                self._write_leaves([Example("", (), response) for response in question.responses], parent)

    @property
    def num_tokens(self) -> int:
        """The length of the row with padding."""
        return max(self._packing.min_row_tokens, _rounded_up(len(self._ids), self._packing.row_multiple_tokens))

    def micro_batch(self, device: torch.device) -> MicroBatch:
        """Return the row as tensors on the device."""
        padding = [0] * (self.num_tokens - len(self._ids))
        positions = self._positions + padding
        num_no_targets = _rounded_up(len(self._targets), _TARGETS_MULTIPLE) - len(self._targets)
        return MicroBatch(
            ids_BT=torch.tensor([self._ids + padding], device=device),
            predictors_N=torch.tensor(self._predictors + [0] * num_no_targets, device=device),
            targets_N=torch.tensor(self._targets + [NO_TARGET] * num_no_targets, device=device),
            # In every packing, a token at position p attends to p earlier tokens and to itself.
            num_attended_tokens=sum(positions) + len(positions),
            positions_BT=torch.tensor([positions], device=device),
            groups=tuple(self._groups),
        )

    def _write_shared(self, ids: tuple[int, ...], parent: int) -> int:
        """Write a parent segment; return the index of its group."""
        self._begin_group(count=1, length=len(ids), parent=parent)
        self._ids.extend(ids)
        return len(self._groups) - 1

    def _write_leaves(self, leaves: Sequence[Example], parent: int) -> None:
        """Write examples without the shared part of their prompts, in groups of similar length, the longest first."""
        remaining = sorted(leaves, key=num_inputs, reverse=True)
        while remaining:
            length = num_inputs(remaining[0])
            padding = itertools.accumulate(length - num_inputs(leaf) for leaf in remaining)
            count = sum(num_tokens <= self._packing.group_padding_tokens for num_tokens in padding)
            self._write_group(remaining[:count], length, parent)
            remaining = remaining[count:]

    def _write_group(self, leaves: Sequence[Example], length: int, parent: int) -> None:
        last_of_parent = -1
        if parent >= 0:
            last_of_parent = self._groups[parent].start + self._groups[parent].length - 1
        if length:  # a response of one token to a shared prompt has no input token
            self._begin_group(len(leaves), length, parent)
        for leaf in leaves:
            start = len(self._ids)
            self._ids.extend(leaf.prompt_ids + leaf.response_ids[:-1])
            self._ids.extend([0] * (start + length - len(self._ids)))
            after_prompt = start + len(leaf.prompt_ids)
            self._predictors.append(after_prompt - 1 if leaf.prompt_ids else last_of_parent)
            self._predictors.extend(range(after_prompt, after_prompt + len(leaf.response_ids) - 1))
            self._targets.extend(leaf.response_ids)

    def _begin_group(self, count: int, length: int, parent: int) -> None:
        position = 0
        if parent >= 0:
            parent_group = self._groups[parent]
            position = self._positions[parent_group.start] + parent_group.length
        self._groups.append(Group(len(self._ids), count, length, parent))
        self._positions.extend([*range(position, position + length)] * count)


def _rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
