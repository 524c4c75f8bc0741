"""One optimizer step of one run on one device, from a batch to changed weights; chooses no batch, writes no file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from torch import Tensor

from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.attention import PACKED, TREE
from mathsft.training.loss import RowLoss
from mathsft.training.memory import keep_freed_memory
from mathsft.training.optimizer import MasterAdamW, learning_rate_at
from mathsft.training.rows import Packing, Row, num_inputs, packed_rows, plain_rows
from mathsft.training.state import BaseModel, set_gradient_checkpointing

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_CPU_ROW_MULTIPLE_TOKENS = 32
"""oneDNN compiles a kernel for every new length, 0.5 to 1 ms per product: lengths that come again cost less than padding."""
_CUDA_ROW_LENGTHS = 8
"""flex_attention is compiled anew for every length, and at most this often."""
_GROUP_PADDING_BY_WIDTH = 4096
"""On a CPU a group of segments costs what this many tokens do in a model of hidden width 1: overhead against arithmetic."""


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
    ) -> None:
        """Start a run of num_steps steps whose prompts all begin with prefix_ids."""
        if device.type == "cpu":
            keep_freed_memory()
        self._training = training
        self._num_steps = num_steps
        self._device = device
        set_gradient_checkpointing(base, training.gradient_checkpointing)
        self._optimizer = MasterAdamW(base.model, base.weights, training, DTYPES[training.precision], device)
        self._row_loss = RowLoss(base.model)
        self._packing = _packing(base, training, prefix_ids) if base.attention in PACKED else None

    def take(self, batch: Sequence[Example], step: int) -> StepOutcome:
        """Take step 1, 2, …, num_steps with the batch, in as many rows as the token budget asks for."""
        num_response_tokens = sum(len(example.response_ids) for example in batch)
        learning_rate = learning_rate_at(step, self._num_steps, self._training)
        rows = self._rows(batch)

        loss = torch.zeros((), device=self._device)
        for index, row in enumerate(rows):
            row_loss = self._row_loss(row) / num_response_tokens
            row_loss.backward()
            loss += row_loss.detach()
            self._optimizer.collect_gradients(first=index == 0)

        # The only wait for the device in a step.
        loss_value, norm = torch.stack([loss, self._optimizer.gradient_norm()]).tolist()
        outcome = StepOutcome(
            loss_value,
            norm,
            learning_rate,
            num_tokens=sum(len(example.prompt_ids) + len(example.response_ids) for example in batch),
            num_computed_tokens=sum(row.ids_BT.numel() for row in rows),
            num_attended_tokens=sum(row.num_attended_tokens for row in rows),
            num_response_tokens=num_response_tokens,
        )
        if outcome.is_finite:
            self._optimizer.update(step, learning_rate, _clipping(norm, self._training.max_gradient_norm))
        return outcome

    def largest_row(self, examples: Sequence[Example]) -> Row:
        """Return a row as large as the run's can be: as many of the longest examples as batch and token budget take."""
        num_prefix_tokens = len(self._packing.prefix_ids) if self._packing else 0
        room_tokens = self._training.token_budget_tokens - num_prefix_tokens
        longest: list[Example] = []
        for example in nlargest(self._training.batch_size, examples, key=num_inputs):
            room_tokens -= num_inputs(example) - num_prefix_tokens
            if longest and room_tokens < 0:
                break
            longest.append(example)
        return max(self._rows(longest), key=lambda row: row.ids_BT.numel())

    def weights(self) -> dict[str, Tensor]:
        """Return the fp32 master weights by parameter name, tied ones once; no copies."""
        return self._optimizer.masters()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on, by flat name; no copies."""
        return self._optimizer.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, here or in another process, to the bit."""
        self._optimizer.load_tensors(tensors)

    def move_to(self, device: torch.device) -> None:
        """Move everything to the device, from where the next step goes on exactly."""
        self._device = device
        self._optimizer.move_to(device)

    def _rows(self, batch: Sequence[Example]) -> list[Row]:
        if self._packing is None:
            return plain_rows(batch, self._training.token_budget_tokens, self._device)
        return packed_rows(batch, self._packing, self._device)


def _packing(base: BaseModel, training: TrainingSettings, prefix_ids: tuple[int, ...]) -> Packing:
    budget_tokens = training.token_budget_tokens
    if base.attention == TREE:
        padding_tokens = _GROUP_PADDING_BY_WIDTH // base.model.config.hidden_size
        return Packing(prefix_ids, budget_tokens, padding_tokens, _CPU_ROW_MULTIPLE_TOKENS)
    # flex_attention computes blocks of 128 tokens.
    row_multiple_tokens = -(-budget_tokens // (_CUDA_ROW_LENGTHS * 128)) * 128
    return Packing(prefix_ids, budget_tokens, 0, row_multiple_tokens)


def _clipping(norm: float, max_norm: float) -> float:
    """Return the factor that scales a gradient of this norm down to max_norm, 1 for a smaller one."""
    return min(1.0, max_norm / (norm + 1e-6))
