"""Chooses the examples of every optimizer step and lays them out as padded tensors; computes nothing with a model.

A run reads an endless stream of examples: one seeded permutation of all of them per epoch. Step s takes the s-th batch_size
of the stream, so the batch of a step follows from (seed, step) alone and needs no state to resume.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mathsft.records import Example


@dataclass(frozen=True)
class MicroBatch:
    """Some examples of an optimizer batch, computed at once.

    ids_BT is padded on the right, so causal attention keeps padding out of every real token without a mask. The hidden
    state at predictors_N (indices into the flattened B x T) predicts the response token targets_N.
    """

    ids_BT: Tensor  # noqa: N815
    predictors_N: Tensor  # noqa: N815
    targets_N: Tensor  # noqa: N815


def optimizer_batch(examples: Sequence[Example], batch_size: int, seed: int, step: int) -> list[Example]:
    """Return the batch_size examples of optimizer step 1, 2, …; an example comes again only in the next epoch."""
    num_examples = len(examples)
    stream = range((step - 1) * batch_size, step * batch_size)
    epochs = range(stream[0] // num_examples, stream[-1] // num_examples + 1)
    permutations = {epoch: np.random.default_rng((seed, epoch)).permutation(num_examples) for epoch in epochs}
    return [examples[permutations[place // num_examples][place % num_examples]] for place in stream]


def micro_batches(batch: Sequence[Example], token_budget_tokens: int, device: torch.device) -> Iterator[MicroBatch]:
    """Yield the batch in parts of at most token_budget_tokens padded tokens each, or of one example that is longer."""
    part: list[Example] = []
    # Neighbours of like length need little padding; the longest first, so that memory runs out at once or not at all.
    for example in sorted(batch, key=_num_inputs, reverse=True):
        if part and (len(part) + 1) * _num_inputs(part[0]) > token_budget_tokens:
            yield _collate(part, device)
            part = []
        part.append(example)
    yield _collate(part, device)


def _num_inputs(example: Example) -> int:
    # The last response token is predicted but never read.
    return len(example.prompt_ids) + len(example.response_ids) - 1


def _collate(examples: Sequence[Example], device: torch.device) -> MicroBatch:
    width = max(map(_num_inputs, examples))
    # What stands in the padding is never looked at; token 0 exists in every vocabulary.
    ids_BT = torch.zeros(len(examples), width, dtype=torch.long)
    predictors: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        ids_BT[row, : _num_inputs(example)] = torch.tensor(example.prompt_ids + example.response_ids[:-1])
        start = row * width + len(example.prompt_ids) - 1
        predictors.extend(range(start, start + len(example.response_ids)))
        targets.extend(example.response_ids)
    return MicroBatch(ids_BT.to(device), torch.tensor(predictors, device=device), torch.tensor(targets, device=device))
