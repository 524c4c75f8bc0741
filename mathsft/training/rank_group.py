"""Communication between the ranks of a trainer, the processes that train one run together.

All ranks must make the same calls in the same order. `broadcast` gives them a value that only rank 0 knows. A group of one
rank starts no process group and copies nothing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from mathsft.records import Example

_NO_TIMEOUT = timedelta(days=365)
"""Ranks wait for each other without a limit, because the driver detects a hung or dead rank and ends all ranks."""


@dataclass(frozen=True)
class RankGroup:
    """The rank of a process in its group, and the size of the group. Only rank 0 writes files and answers calls."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def split_batch(self, batch: Sequence[Example]) -> list[Sequence[Example]]:
        """Return each rank's share of the batch, with similar numbers of tokens; a share may be empty.

        Examples with the same question stay together, because a packed row computes the question only once.
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

    def broadcast(self, value: int) -> int:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        value_tensor = torch.tensor(int(value))
        distributed.broadcast(value_tensor, src=0)
        return int(value_tensor)

    def sum(self, part: Tensor) -> Tensor:
        """Return the sum of all ranks' parts, bit for bit the same on every rank."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        distributed.all_gather(parts, part)
        return torch.stack(parts).sum(0)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return sharded tensors whole and on the host on rank 0, and none on other ranks; a single rank's are unchanged."""
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
    """Wait for all ranks of the group in the environment and return it; return ALONE if WORLD_SIZE is 1 or not set."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # NCCL needs a device of its own for each rank
    # `broadcast` sends host tensors on every device, so gloo is always needed.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_NO_TIMEOUT)
    return RankGroup(distributed.get_rank(), size)


def _num_tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.prompt_ids) + len(example.response_ids) for example in examples)
