"""The ranks of a trainer: the processes that train one run together, and what they tell each other; trains nothing.

All ranks make the same calls in the same order: whatever only one of them can know, the others hear through `agree`. A
single rank is a group of its own, for which nothing is started and nothing copied.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from mathsft.records import Example

_NEVER = timedelta(days=365)
"""How long ranks wait for each other: the driver tells what has hung or died, and ends them all."""


@dataclass(frozen=True)
class RankGroup:
    """The number of a process in its group, and how many there are; the first one alone writes files and answers."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this is rank 0."""
        return self.rank == 0

    def deal(self, batch: Sequence[Example]) -> list[Sequence[Example]]:
        """Return each rank's share of the batch, of like numbers of tokens; a share may be empty.

        Solutions of one question stay together, for a row computes the question only once.
        """
        if self.size == 1:
            return [batch]
        questions: dict[tuple[int, ...], list[Example]] = {}
        for example in batch:
            questions.setdefault(example.prompt_ids, []).append(example)
        shares: list[list[Example]] = [[] for _ in range(self.size)]
        for examples in sorted(questions.values(), key=_num_tokens, reverse=True):
            min(shares, key=_num_tokens).extend(examples)
        return [*shares]

    def agree(self, value: int) -> int:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        told = torch.tensor(int(value))
        distributed.broadcast(told, src=0)
        return int(told)

    def sum(self, part: Tensor) -> Tensor:
        """Return the sum of all ranks' parts, the same bits on each."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        distributed.all_gather(parts, part)
        return torch.stack(parts).sum(0)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return rank 0 all of the tensors that the ranks share, on the host, and the others none.

        A single rank gets its own ones back as they are.
        """
        if self.size == 1:
            return dict(tensors)
        gathered: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            assert isinstance(tensor, DTensor)
            full = tensor.full_tensor()
            if self.is_first:
                gathered[name] = full.cpu()
        return gathered


ALONE = RankGroup()


def join_ranks(device: torch.device) -> RankGroup:
    """Return the group that the environment names, once all of its ranks are there; ALONE where it names none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if device.type == "cuda":
        torch.cuda.set_device(0)  # the only one that this process sees
    # What is agreed on lies on the host, whatever the device.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_NEVER)
    return RankGroup(distributed.get_rank(), size)


def _num_tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.prompt_ids) + len(example.response_ids) for example in examples)
