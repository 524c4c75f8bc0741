"""Checks the trainer's device in a process in the trainer's place: packed attention, and communication between ranks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mathsft.records import Example
from mathsft.training.batching.microbatches import (
    MicroBatch,
    common_prefix,
    packed_micro_batches,
    padded_micro_batches,
)
from mathsft.training.model.attention import with_masks
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.rank_group import join_ranks
from mathsft.training.state import load_base
from mathsft.training.step import DTYPES, packing_of
from mathsft.worker_settings import WorkerSettings

_BUDGET_TOKENS = 4096
_GATHERED_VALUES = 2**20


class DeviceCheck:
    """Computes, with the model of settings.experiment on the trainer's device, results that have a known answer."""

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.worker_device.num_threads)
        self._settings, self._device = settings, torch.device(settings.worker_device.device)

    def attention_error(self) -> float:
        """Return by how much packed attention's loss and gradient differ from those of padded rows with sdpa attention.

        The result is the larger one of two relative differences: of the loss, and of the gradient of all parameters, in the
        L2 norm. Raises RuntimeError if the model cannot be packed.
        """
        experiment, worker_device = self._settings.experiment, self._settings.worker_device
        attention = worker_device.attention
        base = load_base(Path(experiment.model.path), attention, numpy_products=worker_device.numpy_products)
        batch = examples_of_two_questions(base.model.get_input_embeddings().num_embeddings)
        packing = packing_of(base, common_prefix(batch), _BUDGET_TOKENS)
        if packing is None or base.attention != attention:
            raise RuntimeError(
                f"{attention} attention cannot be used: the model got {base.attention} attention; see the log"
            )
        model = base.model.to(self._device, DTYPES[experiment.training.precision])
        loss_model = MicroBatchLoss(model)
        rows = packed_micro_batches(batch, packing, self._device)
        packed = loss_and_gradient(loss_model, with_masks(attention, rows))
        model.set_attn_implementation("sdpa")
        padded = loss_and_gradient(loss_model, padded_micro_batches(batch, _BUDGET_TOKENS, self._device))
        return max(float((one - other).norm() / other.norm()) for one, other in zip(packed, padded, strict=True))

    def gather_from_ranks(self) -> int:
        """Return the number of ranks, after a sum over tensors of all of them; raises RuntimeError if it is wrong."""
        ranks = join_ranks(self._device)
        total = ranks.sum(torch.full((_GATHERED_VALUES,), 1.0 + ranks.rank, device=self._device))
        expected = ranks.size * (ranks.size + 1) / 2
        if not bool((total == expected).all()):
            raise RuntimeError(f"the sum over {ranks.size} ranks is {float(total.mean())}, not {expected}")
        return ranks.size


def examples_of_two_questions(vocabulary: int) -> list[Example]:
    """Return examples with two questions, of which each has responses of several lengths, and a prefix that all share."""
    generator = torch.Generator().manual_seed(0)

    def draw(num_tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (num_tokens,), generator=generator).tolist())

    prefix = draw(40)
    questions = [prefix + draw(num_tokens) for num_tokens in (24, 56)]
    return [Example("", question, draw(num_tokens)) for question in questions for num_tokens in (17, 60, 130)]


def loss_and_gradient(loss_model: MicroBatchLoss, micro_batches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient of all parameters as one vector, in fp32."""
    loss_model.zero_grad(set_to_none=True)
    losses = [loss_model(micro_batch) for micro_batch in micro_batches]
    torch.autograd.backward(losses)
    gradients = [weight.grad.float().flatten() for weight in loss_model.parameters() if weight.grad is not None]
    return torch.stack(losses).sum().detach(), torch.cat(gradients)
