"""Lays the examples of an optimizer batch out as rows, each one forward pass; computes nothing with a model.

A packed row is a tree of segments. Its root is the preamble that all prompts begin with, a question with several solutions
is a segment of its own, and an example that shares nothing else is one segment of question and response. A token attends to
its own segment up to itself and to all of the segments above it; positions go on from the parent. So what examples share is
computed once per row, and what each of them computes stays the same. Plain rows, for models that cannot do this, hold one
example a line, padded on the right.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mathsft.records import Example

NO_TARGET = -100
"""In place of a target that only rounds their number up; torch's own sign for it."""

_TARGETS_MULTIPLE = 32
_MIN_SPARED_TOKENS = 16
"""A shared segment costs every layer a few operations of its own: it must spare this many tokens."""


@dataclass(frozen=True)
class Packing:
    """How examples become packed rows.

    Segments of like length share a group, and with it every operation of attention, where that takes no more than
    group_padding_tokens. Rows are padded to a multiple of row_multiple_tokens: kernels are compiled anew for every length.
    """

    prefix_ids: tuple[int, ...]
    token_budget_tokens: int
    group_padding_tokens: int
    row_multiple_tokens: int


@dataclass(frozen=True)
class Group:
    """Sibling segments of one length, side by side in the row: `count` times `length` tokens from `start` on.

    parent is the index of the group that they continue, -1 for none; a group that is a parent holds one segment. A shorter
    segment is padded on the right to the group's length: nothing attends to its padding.
    """

    start: int
    count: int
    length: int
    parent: int


@dataclass(frozen=True)
class MicroBatch:
    """Some examples of an optimizer batch, computed at once.

    The hidden state at predictors_N (indices into the flattened B x T) predicts the response token targets_N, but for those
    that are NO_TARGET. A packed row (B = 1) has positions_BT and groups, in the order of a walk through the tree, parents
    first; a plain one has neither.
    """

    ids_BT: Tensor
    predictors_N: Tensor
    targets_N: Tensor
    num_attended_tokens: int
    """Pairs of a token and one that it attends to, itself among them, padding included: what attention costs."""
    positions_BT: Tensor | None = None
    groups: tuple[Group, ...] = ()


def common_prefix(examples: Sequence[Example]) -> tuple[int, ...]:
    """Return the tokens that every example's prompt begins with."""
    prompts = [example.prompt_ids for example in examples]
    if not prompts:
        return ()
    # What the first and the last in order share, all between them share, too.
    pairs = zip(min(prompts), max(prompts), strict=False)
    return tuple(token for token, other in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def packed_rows(batch: Sequence[Example], packing: Packing, device: torch.device) -> list[MicroBatch]:
    """Return the batch in the fewest evenly filled rows within the token budget, a longer example in a row of its own.

    All prompts begin with packing.prefix_ids.
    """
    budget_tokens, num_prefix_tokens = packing.token_budget_tokens, len(packing.prefix_ids)
    fitting: list[_Question] = []
    trees: list[_RowWriter] = []
    for question in _questions(batch, packing):
        if num_prefix_tokens + question.num_tokens > budget_tokens:
            trees.append(_RowWriter([question], packing))
        else:
            fitting.append(question)
    num_tokens = sum(question.num_tokens for question in fitting)
    # More rows than questions cannot help: at the latest, padding alone is over the budget.
    for num_parts in range(max(1, -(-num_tokens // budget_tokens)), len(fitting) + 1):
        parts = _even_parts(fitting, num_parts) if num_parts < len(fitting) else [[question] for question in fitting]
        packed = [_RowWriter(part, packing) for part in parts]
        if num_parts == len(fitting) or all(tree.num_tokens <= budget_tokens for tree in packed):
            trees += packed
            break
    return [tree.row(device) for tree in trees]


def plain_rows(batch: Sequence[Example], token_budget_tokens: int, device: torch.device) -> list[MicroBatch]:
    """Return the batch in rows of at most token_budget_tokens padded tokens each, or of one longer example."""
    parts: list[list[Example]] = [[]]
    # Neighbours of like length need little padding; the longest first, so that memory runs out at once or not at all.
    for example in sorted(batch, key=num_inputs, reverse=True):
        if parts[-1] and (len(parts[-1]) + 1) * num_inputs(parts[-1][0]) > token_budget_tokens:
            parts.append([])
        parts[-1].append(example)
    return [_plain_row(part, device) for part in parts]


def _plain_row(examples: Sequence[Example], device: torch.device) -> MicroBatch:
    width = max(map(num_inputs, examples))
    # What stands in the padding is never looked at; token 0 exists in every vocabulary.
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
    """Return the tokens that are computed for an example: its last response token is predicted but never read."""
    return len(example.prompt_ids) + len(example.response_ids) - 1


@dataclass(frozen=True)
class _Question:
    """What follows the preamble in a prompt, and the responses to it."""

    ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return len(self.ids) + sum(len(response) - 1 for response in self.responses)


class _LastSegment(NamedTuple):
    """A segment that none continues: the part of a prompt that is its own, then the response."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids) - 1


def _questions(batch: Sequence[Example], packing: Packing) -> Iterator[_Question]:
    """Yield each question once, with all of its responses, or once per response if sharing spares little or fits no row."""
    responses: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for example in batch:
        responses.setdefault(example.prompt_ids[len(packing.prefix_ids) :], []).append(example.response_ids)
    for ids, of_question in responses.items():
        question = _Question(ids, tuple(of_question))
        spares = len(ids) * (len(of_question) - 1) >= _MIN_SPARED_TOKENS
        if spares and _RowWriter([question], packing).num_tokens <= packing.token_budget_tokens:
            yield question
        else:
            yield from (_Question(ids, (response,)) for response in of_question)


def _even_parts(questions: Sequence[_Question], num_parts: int) -> list[list[_Question]]:
    """Cut the questions, the longest first, into at most num_parts parts of about equally many tokens."""
    num_tokens = sum(question.num_tokens for question in questions)
    parts: list[list[_Question]] = [[] for _ in range(num_parts)]
    num_before = 0.0
    for question in sorted(questions, key=lambda question: question.num_tokens, reverse=True):
        middle = num_before + question.num_tokens / 2
        parts[min(num_parts - 1, int(middle * num_parts / max(1, num_tokens)))].append(question)
        num_before += question.num_tokens
    return [part for part in parts if part]


class _RowWriter:
    """Some questions of a batch, written segment by segment, each directly followed by those that continue it."""

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
        self._write_leaves([_LastSegment(prefix_ids + question.ids, question.responses[0]) for question in single], root)
        for question in questions:
            if len(question.responses) > 1:
                parent = self._write_shared(prefix_ids + question.ids, root)
                self._write_leaves([_LastSegment((), response) for response in question.responses], parent)

    @property
    def num_tokens(self) -> int:
        """The length of the row, padding included."""
        return _rounded_up(len(self._ids), self._packing.row_multiple_tokens)

    def row(self, device: torch.device) -> MicroBatch:
        """Return what was written as tensors on the device."""
        padding = [0] * (self.num_tokens - len(self._ids))
        positions = self._positions + padding
        num_no_targets = _rounded_up(len(self._targets), _TARGETS_MULTIPLE) - len(self._targets)
        return MicroBatch(
            ids_BT=torch.tensor([self._ids + padding], device=device),
            predictors_N=torch.tensor(self._predictors + [0] * num_no_targets, device=device),
            targets_N=torch.tensor(self._targets + [NO_TARGET] * num_no_targets, device=device),
            # However tokens are packed, one at position p attends to p others and to itself.
            num_attended_tokens=sum(positions) + len(positions),
            positions_BT=torch.tensor([positions], device=device),
            groups=tuple(self._groups),
        )

    def _write_shared(self, ids: tuple[int, ...], parent: int) -> int:
        """Write a segment that others continue; return its group's index."""
        self._begin_group(count=1, length=len(ids), parent=parent)
        self._ids.extend(ids)
        return len(self._groups) - 1

    def _write_leaves(self, leaves: Sequence[_LastSegment], parent: int) -> None:
        """Write the segments in groups of like length, the longest first."""
        remaining = sorted(leaves, key=lambda leaf: leaf.num_tokens, reverse=True)
        while remaining:
            length = remaining[0].num_tokens
            padding = itertools.accumulate(length - leaf.num_tokens for leaf in remaining)
            count = sum(num_tokens <= self._packing.group_padding_tokens for num_tokens in padding)
            self._write_group(remaining[:count], length, parent)
            remaining = remaining[count:]

    def _write_group(self, leaves: Sequence[_LastSegment], length: int, parent: int) -> None:
        last_of_parent = -1
        if parent >= 0:
            last_of_parent = self._groups[parent].start + self._groups[parent].length - 1
        if length:  # a response of one token to a shared prompt leaves nothing to read
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
            above = self._groups[parent]
            position = self._positions[above.start] + above.length
        self._groups.append(Group(len(self._ids), count, length, parent))
        self._positions.extend([*range(position, position + length)] * count)


def _rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
