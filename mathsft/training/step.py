"""One optimizer step of one run, on one device or its share of ranks; chooses no batch, writes no file."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from torch import Tensor

from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.batching.microbatches import MicroBatch, Packing, num_inputs, packed_rows, plain_rows
from mathsft.training.cpu.memory import is_shortage, keep_freed_memory
from mathsft.training.model.attention import PACKED, TREE
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.optimizer import MasterAdamW, learning_rate_at
from mathsft.training.rank_group import ALONE, RankGroup
from mathsft.training.sharded import ShardedAdamW, shard
from mathsft.training.state import BaseModel, set_gradient_checkpointing

logger = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_CPU_ROW_MULTIPLE_TOKENS = 32
"""oneDNN compiles a kernel for every new length, 0.5 to 1 ms per product: lengths that come again cost less than padding."""
_CUDA_ROW_LENGTHS = 8
"""flex_attention is compiled anew for every length, and at most this often."""
_GROUP_PADDING_BY_WIDTH = 4096
"""On a CPU a group of segments costs what this many tokens do in a model of hidden width 1: overhead against arithmetic."""


class TooLittleMemoryError(Exception):
    """Not even a single example fits into memory."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step saw: the loss is nats per response token before the update, the norm the gradient's before clipping.

    num_tokens are the batch's without padding and with what is shared counted for each example, num_computed_tokens those
    that went through the model, num_attended_tokens pairs of these of which one attends to the other. A step that is not
    finite changed nothing.
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
    """The model and the optimizer of one run, from the base weights on; a second one on the same base ends the first."""

    def __init__(
        self,
        base: BaseModel,
        training: TrainingSettings,
        num_steps: int,
        device: torch.device,
        prefix_ids: tuple[int, ...] = (),
        ranks: RankGroup = ALONE,
        fitting_tokens: int | None = None,
    ) -> None:
        """Start a run of num_steps steps whose prompts all begin with prefix_ids.

        No more than fitting_tokens are computed at once, whatever the settings say. Raises TooLittleMemoryError where
        weights, gradients and moments do not fit.
        """
        if device.type == "cpu":
            keep_freed_memory()
        self._training = training
        self._num_steps = num_steps
        self._device = device
        self._base, self._prefix_ids, self._ranks = base, prefix_ids, ranks
        set_gradient_checkpointing(base, training.gradient_checkpointing)
        dtype = DTYPES[training.precision]
        self._optimizer: MasterAdamW | ShardedAdamW
        try:
            if ranks.size == 1:
                self._optimizer = MasterAdamW(base.model, base.weights, training, dtype, device)
                self._row_loss = MicroBatchLoss(base.model)
            else:
                self._row_loss = shard(base, dtype, device, ranks)
                self._optimizer = ShardedAdamW(self._row_loss, training, device, ranks)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            raise TooLittleMemoryError(_no_room_for_optimizer(base, error)) from error
        self.fitting_tokens = fitting_tokens
        """Tokens at once that memory has room for, as was found out; None until it ran out."""
        self._set_budget(min(training.token_budget_tokens, fitting_tokens or training.token_budget_tokens))

    def take(self, batch: Sequence[Example], step: int) -> StepOutcome:
        """Take step 1, 2, …, num_steps with the batch, in as many rows as the token budget asks for.

        Where memory runs out, the budget is halved, and fitting_tokens says so: no update changes but by rounding.
        Raises TooLittleMemoryError when the longest example does not fit even alone, and for ranks at once.
        """
        while True:
            try:
                outcome = self._collect_gradient(batch, learning_rate_at(step, self._num_steps, self._training))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                shortage = str(error).partition("\n")[0]
            # Out here the error is gone, and with it the frames that held on to activations.
            self._halve_budget(batch, step, shortage)
        if outcome.is_finite:
            clipping = _clipping(outcome.gradient_norm, self._training.max_gradient_norm)
            self._optimizer.update(step, outcome.learning_rate, clipping)
        return outcome

    def largest_row(self, examples: Sequence[Example]) -> MicroBatch:
        """Return a row as large as the run's can be: as many of the longest examples as batch and token budget take."""
        num_prefix_tokens = len(self._packing.prefix_ids) if self._packing else 0
        room_tokens = self._budget_tokens - num_prefix_tokens
        longest: list[Example] = []
        for example in nlargest(self._training.batch_size, examples, key=num_inputs):
            room_tokens -= num_inputs(example) - num_prefix_tokens
            if longest and room_tokens < 0:
                break
            longest.append(example)
        return max(self._rows(longest), key=lambda row: row.ids_BT.numel())

    def weights(self) -> dict[str, Tensor]:
        """Return the fp32 master weights by parameter name, tied ones once, sharded where there are ranks; no copies."""
        return self._optimizer.masters()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on, by flat name, sharded where there are ranks; no copies."""
        return self._optimizer.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, here or in another process, to the bit; of ranks the first passes them, whole."""
        self._optimizer.load_tensors(tensors)

    def move_to(self, device: torch.device) -> None:
        """Move everything to the device, from where the next step goes on exactly."""
        self._device = device
        self._optimizer.move_to(device)

    def _collect_gradient(self, batch: Sequence[Example], learning_rate: float) -> StepOutcome:
        """Compute the batch's loss and gradient row by row; the weights stay as they are."""
        num_response_tokens = sum(len(example.response_ids) for example in batch)
        # Laid out alike on every rank, so that each knows what the others compute.
        rows_of_ranks = [self._rows(share) if share else [] for share in self._ranks.deal(batch)]
        rows = [row for rows in rows_of_ranks for row in rows]

        loss = torch.zeros((), device=self._device)
        for index, (row, counts) in enumerate(self._own(rows_of_ranks)):
            row_loss = self._row_loss(row, 1 / num_response_tokens if counts else 0.0)
            row_loss.backward()
            loss += row_loss.detach()
            self._optimizer.collect_gradients(first=index == 0)

        # The only wait for the device in a step.
        loss_value, norm = torch.stack([self._ranks.sum(loss), self._optimizer.gradient_norm()]).tolist()
        return StepOutcome(
            loss_value,
            norm,
            learning_rate,
            num_tokens=sum(len(example.prompt_ids) + len(example.response_ids) for example in batch),
            num_computed_tokens=sum(row.ids_BT.numel() for row in rows),
            num_attended_tokens=sum(row.num_attended_tokens for row in rows),
            num_response_tokens=num_response_tokens,
        )

    def _own(self, rows_of_ranks: Sequence[Sequence[MicroBatch]]) -> list[tuple[MicroBatch, bool]]:
        """Return this rank's rows, which count, and others that do not, up to what the busiest rank has.

        RankGroup share every layer's weights while they compute, so none can go ahead of the others or stay behind.
        """
        own, most = rows_of_ranks[self._ranks.rank], max(map(len, rows_of_ranks))
        smallest = min((row for rows in rows_of_ranks for row in rows), key=lambda row: row.ids_BT.numel())
        return [(row, True) for row in own] + [(smallest, False)] * (most - len(own))

    def _halve_budget(self, batch: Sequence[Example], step: int, shortage: str) -> None:
        """Make rows of half as many tokens, for this step again and for all to come, where examples share a row."""
        if self._ranks.size > 1:  # the others are in the middle of a pass and wait for this rank's share of a layer
            raise TooLittleMemoryError(
                f"memory ran out on rank {self._ranks.rank} in step {step}, with {self._budget_tokens} tokens at once: "
                f"{shortage}; lower training.token_budget_tokens or set training.gradient_checkpointing"
            )
        longest_tokens = max(len(example.prompt_ids) + len(example.response_ids) for example in batch)
        if self._budget_tokens <= longest_tokens:
            raise TooLittleMemoryError(
                f"the longest example of step {step}, {longest_tokens} tokens, does not fit into memory even alone: "
                f"{shortage}; lower training.max_length_tokens, set training.gradient_checkpointing, or take a smaller model"
            )
        logger.warning(
            "step %d: memory ran out with %d tokens at once; from now on %d (%s)",
            step,
            self._budget_tokens,
            self._budget_tokens // 2,
            shortage,
        )
        self._base.model.zero_grad(set_to_none=True)  # of a row that was cut short
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.compiler.reset()  # other row lengths are to come, and attention is compiled for so many only
        self.fitting_tokens = self._budget_tokens // 2
        self._set_budget(self.fitting_tokens)

    def _set_budget(self, budget_tokens: int) -> None:
        self._budget_tokens = budget_tokens
        packed = self._base.attention in PACKED
        self._packing = _packing(self._base, budget_tokens, self._prefix_ids) if packed else None

    def _rows(self, batch: Sequence[Example]) -> list[MicroBatch]:
        if self._packing is None:
            return plain_rows(batch, self._budget_tokens, self._device)
        return packed_rows(batch, self._packing, self._device)


def _no_room_for_optimizer(base: BaseModel, error: BaseException) -> str:
    num_parameters = sum(weight.numel() for weight in base.weights.values())
    reason = str(error).partition("\n")[0]
    return (
        f"weights, gradients and AdamW's moments of {num_parameters:,} parameters do not fit into memory: {reason}; free "
        "some, or take a smaller model"
    )


def _packing(base: BaseModel, budget_tokens: int, prefix_ids: tuple[int, ...]) -> Packing:
    if base.attention == TREE:
        padding_tokens = _GROUP_PADDING_BY_WIDTH // base.model.config.hidden_size
        return Packing(prefix_ids, budget_tokens, padding_tokens, _CPU_ROW_MULTIPLE_TOKENS)
    # flex_attention computes blocks of 128 tokens.
    row_multiple_tokens = -(-budget_tokens // (_CUDA_ROW_LENGTHS * 128)) * 128
    return Packing(prefix_ids, budget_tokens, 0, row_multiple_tokens)


def _clipping(norm: float, max_norm: float) -> float:
    """Return the factor that scales a gradient of this norm down to max_norm, 1 for a smaller one."""
    return min(1.0, max_norm / (norm + 1e-6))
