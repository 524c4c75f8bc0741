"""Computes one optimizer step of a run: micro-batches, gradient, clipping and update, on one device or on several ranks."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from torch import Tensor

from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.batching.microbatches import (
    MicroBatch,
    Packing,
    num_inputs,
    packed_micro_batches,
    padded_micro_batches,
)
from mathsft.training.cpu.memory import (
    OutOfMemoryError,
    explained_shortage,
    first_line,
    is_out_of_memory,
    keep_freed_memory,
)
from mathsft.training.model.attention import FLEX, TREE, with_masks
from mathsft.training.model.block_mask import BLOCK_TOKENS
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.offload import OffloadedAdamW
from mathsft.training.optimizer import MasterAdamW
from mathsft.training.rank_group import ALONE, RankGroup
from mathsft.training.schedule import learning_rate_at
from mathsft.training.sharded import ShardedAdamW, shard
from mathsft.training.state import BaseModel, set_gradient_checkpointing
from mathsft.training.trained import choose_trained

logger = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_CPU_ROW_MULTIPLE_TOKENS = 32
"""oneDNN compiles a kernel for every new row length, in 0.5 to 1 ms per product. Padding to few lengths costs less."""
_CUDA_MIN_ROW_TOKENS = 2 * BLOCK_TOKENS
"""torch.compile compiles flex_attention twice for all rows of whole blocks: for the first length, and then for every length.
It would compile once more for a row of one block, because it treats dimensions of size 1 as constants."""
_GROUP_PADDING_BY_WIDTH = 4096
"""On a CPU the overhead of one group of segments equals the arithmetic of 4096 / hidden_size padding tokens."""


@dataclass(frozen=True)
class StepOutcome:
    """The measurements of one optimizer step.

    loss is in nats per response token, before the update. gradient_norm is the L2 norm before clipping. num_tokens counts
    every example in full, without padding. num_computed_tokens counts the tokens that go through the model: with padding,
    and shared segments once. num_attended_tokens counts pairs of a computed token and a token that it attends to. A step
    that is not finite changes no weights.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    num_tokens: int
    num_computed_tokens: int
    num_attended_tokens: int
    num_response_tokens: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class TrainingStep:
    """The model and the optimizer of one run. A new instance takes over the model of base and ends the earlier instance."""

    def __init__(
        self,
        base: BaseModel,
        training: TrainingSettings,
        num_steps: int,
        device: torch.device,
        prefix_ids: tuple[int, ...] = (),
        ranks: RankGroup = ALONE,
        max_fitting_tokens: int | None = None,
        *,
        offload: bool = False,
        seed: int = 0,
    ) -> None:
        """Start from the base weights a run of num_steps steps whose prompts all begin with prefix_ids.

        max_fitting_tokens limits the tokens of a micro-batch, in addition to training.token_budget_tokens. With offload,
        master weights and moments are in host memory; several ranks shard them instead. The seed decides an
        adapter's initial values and dropout. Raises OutOfMemoryError when
        weights, gradients and moments do not fit into memory.
        """
        if device.type == "cpu":
            keep_freed_memory()
        self._training = training
        self._num_steps = num_steps
        self._device = device
        self._base, self._prefix_ids, self._ranks = base, prefix_ids, ranks
        dtype = DTYPES[training.precision]
        self.trained = choose_trained(base, training, dtype, seed)
        set_gradient_checkpointing(base, training.gradient_checkpointing)
        self._optimizer: MasterAdamW | ShardedAdamW
        num_parameters = sum(weight.numel() for weight in self.trained.initial().values())
        self._held = f"weights, gradients and AdamW's moments of {num_parameters:,} parameters"
        with explained_shortage(f"{self._held} do not fit into memory", "free some, or take a smaller model"):
            if ranks.size == 1:
                adamw = OffloadedAdamW if offload else MasterAdamW
                self._optimizer = adamw(base.model, self.trained.initial(), training, dtype, device, base.buffers)
                self._micro_batch_loss = MicroBatchLoss(base.model)
            else:
                self._micro_batch_loss = shard(base, dtype, device, ranks)
                self._optimizer = ShardedAdamW(self._micro_batch_loss, training, device, ranks)
        self.max_fitting_tokens = max_fitting_tokens
        """Tokens of a micro-batch that fit into memory, found by halving the budget; None if memory never ran out."""
        self._set_budget(min(training.token_budget_tokens, max_fitting_tokens or training.token_budget_tokens))

    def take(self, batch: Sequence[Example], step: int) -> StepOutcome:
        """Take step 1, 2, …, or num_steps with the batch, split into micro-batches by the token budget.

        If memory runs out, halve the budget, set max_fitting_tokens and compute the step again; this changes the update by
        rounding only. Raises OutOfMemoryError when the longest example does not fit alone, when one of several ranks runs
        out of memory, or when the update does not fit, which leaves the weights undefined.
        """
        while True:
            try:
                with self.trained.random_state(self._micro_batch_loss, step, self._ranks.rank):
                    outcome = self._collect_gradient(batch, learning_rate_at(step, self._num_steps, self._training))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the except clause the traceback is freed, and with it the activations that its frames refer to.
            self._halve_budget(batch, step, reason)
        if outcome.is_finite:
            clipping = min(1.0, self._training.max_gradient_norm / (outcome.gradient_norm + 1e-6))
            with explained_shortage(f"the update of step {step} does not fit into memory", "free some for the trainer"):
                self._optimizer.update(step, outcome.learning_rate, clipping)
        return outcome

    def largest_micro_batch(self, examples: Sequence[Example]) -> MicroBatch:
        """Return the largest micro-batch possible: as many of the longest examples as batch size and token budget allow."""
        num_prefix_tokens = len(self._packing.prefix_ids) if self._packing else 0
        room_tokens = self._budget_tokens - num_prefix_tokens
        longest: list[Example] = []
        for example in nlargest(self._training.batch_size, examples, key=num_inputs):
            room_tokens -= num_inputs(example) - num_prefix_tokens
            if longest and room_tokens < 0:
                break
            longest.append(example)
        return max(self._micro_batches(longest), key=lambda micro_batch: micro_batch.ids_BT.numel())

    def weights(self) -> dict[str, Tensor]:
        """Return the fp32 master weights that train, by parameter name (tied ones once; DTensors with ranks), not copied."""
        return self._optimizer.master_weights()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on by flat name (DTensors with several ranks), not copied."""
        return self._optimizer.tensors()

    def tensors_to_save(self) -> dict[str, Tensor]:
        """Return the same tensors in host memory (DTensors with several ranks); the next step may change them."""
        return self._optimizer.tensors_to_save()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `tensors`, bit for bit; with several ranks, rank 0 passes whole tensors, the others none."""
        self._optimizer.load_tensors(tensors)

    def move_to(self, device: torch.device) -> None:
        """Park the run in host memory, or continue it on its device, where the next step gives the same result.

        Raises OutOfMemoryError when they do not fit there. Moving them again, there or back, is possible afterwards.
        """
        place = "host memory" if device.type == "cpu" else f"the memory of {device}"
        with explained_shortage(f"{self._held} do not fit into {place}", "free some, or take a smaller model"):
            self._optimizer.move_to(device)
        self._device = device

    def _collect_gradient(self, batch: Sequence[Example], learning_rate: float) -> StepOutcome:
        """Compute the batch's loss and gradient, one micro-batch after the other, without an update of the weights."""
        num_response_tokens = sum(len(example.response_ids) for example in batch)
        # Every rank packs the shares of all ranks, so that it knows how many micro-batches each rank computes.
        micro_batches_by_rank = [self._micro_batches(share) if share else [] for share in self._ranks.split_batch(batch)]
        micro_batches = [micro_batch for share in micro_batches_by_rank for micro_batch in share]
        own = micro_batches_by_rank[self._ranks.rank]
        # All ranks must compute the same number of passes, because FSDP2 gathers a layer's weights on all of them at once.
        # The filler is the smallest micro-batch of all ranks; its loss is multiplied by 0.
        smallest = min(micro_batches, key=lambda micro_batch: micro_batch.ids_BT.numel())
        fillers = [smallest] * (max(map(len, micro_batches_by_rank)) - len(own))

        loss = torch.zeros((), device=self._device)
        passes = with_masks(self._base.attention, [*own, *fillers])
        for index, micro_batch in enumerate(passes):
            micro_batch_loss = self._micro_batch_loss(micro_batch, 1 / num_response_tokens if index < len(own) else 0.0)
            with self._optimizer.collecting(first=index == 0, last=index == len(passes) - 1):
                micro_batch_loss.backward()
            loss += micro_batch_loss.detach()

        # tolist() is the only synchronisation with the device in a step.
        loss_value, norm = torch.stack([self._ranks.sum(loss), self._optimizer.gradient_norm()]).tolist()
        return StepOutcome(
            loss_value,
            norm,
            learning_rate,
            num_tokens=sum(len(example.prompt_ids) + len(example.response_ids) for example in batch),
            num_computed_tokens=sum(micro_batch.ids_BT.numel() for micro_batch in micro_batches),
            num_attended_tokens=sum(micro_batch.num_attended_tokens for micro_batch in micro_batches),
            num_response_tokens=num_response_tokens,
        )

    def _halve_budget(self, batch: Sequence[Example], step: int, reason: str) -> None:
        """Halve the token budget for this and all later steps; raise OutOfMemoryError if that cannot help."""
        if self._ranks.size > 1:  # the other ranks wait in the middle of a pass for this rank's share of a layer
            raise OutOfMemoryError(
                f"memory ran out on rank {self._ranks.rank} in step {step}, with {self._budget_tokens} tokens at once: "
                f"{reason}; lower training.token_budget_tokens or set training.gradient_checkpointing"
            )
        longest_tokens = max(len(example.prompt_ids) + len(example.response_ids) for example in batch)
        if self._budget_tokens <= longest_tokens:
            raise OutOfMemoryError(
                f"the longest example of step {step}, {longest_tokens} tokens, does not fit into memory even alone: "
                f"{reason}; lower training.max_length_tokens, set training.gradient_checkpointing, or take a smaller model"
            )
        self.max_fitting_tokens = self._budget_tokens // 2
        text = "step %d: memory ran out with %d tokens at once; from now on %d (%s)"
        logger.warning(text, step, self._budget_tokens, self.max_fitting_tokens, reason)
        self._base.model.zero_grad(set_to_none=True)  # removes the partial gradient of the interrupted micro-batch
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._set_budget(self.max_fitting_tokens)

    def _set_budget(self, budget_tokens: int) -> None:
        self._budget_tokens = budget_tokens
        self._packing = packing_of(self._base, self._prefix_ids, budget_tokens)

    def _micro_batches(self, batch: Sequence[Example]) -> list[MicroBatch]:
        if self._packing is None:
            return padded_micro_batches(batch, self._budget_tokens, self._device)
        return packed_micro_batches(batch, self._packing, self._device)


def packing_of(base: BaseModel, prefix_ids: tuple[int, ...], budget_tokens: int) -> Packing | None:
    """Return how rows of the model are packed; None if its attention needs padded rows."""
    if base.attention == TREE:
        padding_tokens = _GROUP_PADDING_BY_WIDTH // base.model.config.hidden_size
        return Packing(prefix_ids, budget_tokens, padding_tokens, _CPU_ROW_MULTIPLE_TOKENS)
    if base.attention == FLEX:
        return Packing(prefix_ids, budget_tokens, 0, BLOCK_TOKENS, _CUDA_MIN_ROW_TOKENS)
    return None
