"""Stands in for mathsft.training.step until that lands: the trainer's plain padded step, behind the same interface."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.batches import micro_batches
from mathsft.training.loss import summed_loss
from mathsft.training.optimizer import learning_rate_at, make_optimizer, set_learning_rate
from mathsft.training.state import BaseModel, restore


@dataclass(frozen=True)
class StepOutcome:
    loss: float
    num_response_tokens: int


class TrainingStep:
    def __init__(
        self,
        base: BaseModel,
        training: TrainingSettings,
        num_steps: int,
        device: torch.device,
        prefix_ids: tuple[int, ...] = (),
    ) -> None:
        restore(base)
        self._model, self._training, self._num_steps, self._device = base.model, training, num_steps, device
        self._optimizer = make_optimizer(base.model, training)

    def take(self, batch: Sequence[Example], step: int) -> StepOutcome:
        training = self._training
        num_response_tokens = sum(len(example.response_ids) for example in batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for micro_batch in micro_batches(batch, training.token_budget_tokens, self._device):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                micro_loss = summed_loss(self._model, micro_batch) / num_response_tokens
            torch.autograd.backward(micro_loss)
            loss += micro_loss.item()
        clip_grad_norm_(self._model.parameters(), training.max_gradient_norm)
        set_learning_rate(self._optimizer, learning_rate_at(step, self._num_steps, training))
        self._optimizer.step()
        return StepOutcome(loss, num_response_tokens)

    def tensors(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        return {f"moment1.{name}": state[parameter]["exp_avg"] for name, parameter in self._model.named_parameters()}
