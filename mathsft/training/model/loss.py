"""The loss of a row: cross-entropy of the response tokens, whose logits alone are computed, and never all at once."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear
from transformers import PreTrainedModel

from mathsft.training.batching.microbatches import NO_TARGET, MicroBatch
from mathsft.training.model.attention import attention_arguments

CHUNK_LOGITS = 2**26
"""Logits that exist at once, in the model's precision: 128 MiB in bf16, whatever the batch size and the vocabulary."""

BLOCK_LOGITS = {"cpu": 2**18, "cuda": 2**22}
"""Those of them that exist in fp32, too, by device: they stay in a core's cache from the logits to their gradient."""


class MicroBatchLoss(nn.Module):
    """The model with its loss: all that touches the head's weight happens inside this forward, as sharding needs it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, row: MicroBatch, scale: float = 1.0) -> Tensor:
        """Return scale times the cross-entropy in nats summed over response tokens, EOS included; a scalar in fp32."""
        hidden_BTE = self.model.base_model(
            input_ids=row.ids_BT, use_cache=False, **attention_arguments(self.model, row)
        ).last_hidden_state
        # Logits are a vocabulary wide and most tokens belong to prompts: the head sees only what predicts a response.
        hidden_NE = hidden_BTE.flatten(0, 1).index_select(0, row.predictors_N)
        head = self.model.get_output_embeddings()
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_NE, head.weight, head.bias, row.targets_N, scale
        )
        return loss


class _ChunkedCrossEntropy(Function):
    """Head and cross-entropy in one: the gradient of a chunk's logits takes their place while they are there.

    The scale goes into it there: afterwards it would cost a product with the whole gradient of the head.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float
    ) -> Tensor:
        loss = torch.zeros((), device=hidden_NE.device)
        hidden_grad_NE = torch.empty_like(hidden_NE)
        weight_grad_VE = bias_grad_V = None
        for chunk in _slices(len(hidden_NE), CHUNK_LOGITS // len(weight_VE)):
            hidden_CE, targets_C = hidden_NE[chunk], targets_N[chunk]
            logits_CV = linear(hidden_CE, weight_VE, bias_V)
            for block in _slices(len(logits_CV), BLOCK_LOGITS[logits_CV.device.type] // len(weight_VE)):
                loss += _loss_and_gradient_(logits_CV[block], targets_C[block], scale)
            torch.mm(logits_CV, weight_VE, out=hidden_grad_NE[chunk])
            weight_grad_VE = _sum(weight_grad_VE, logits_CV.t() @ hidden_CE)
            if bias_V is not None:
                bias_grad_V = _sum(bias_grad_V, logits_CV.sum(0))
        # Not by save_for_backward, which would keep a second hand on them: autograd adds to what it alone holds in place.
        ctx.grads = [hidden_grad_NE, weight_grad_VE, bias_grad_V]
        ctx.dtype = weight_VE.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        hidden_grad_NE, weight_grad_VE, bias_grad_V = ctx.grads
        del ctx.grads
        return (
            _times(hidden_grad_NE, loss_grad),
            _times(weight_grad_VE, loss_grad).to(ctx.dtype),
            None if bias_grad_V is None else _times(bias_grad_V, loss_grad).to(ctx.dtype),
            None,
            None,
        )


def _loss_and_gradient_(logits_BV: Tensor, targets_B: Tensor, scale: float) -> Tensor:
    """Return scale times the cross-entropy in nats summed over the targets; put its gradient in the place of the logits."""
    weights_B1 = (targets_B != NO_TARGET)[:, None] * scale
    targets_B1 = targets_B.clamp(min=0)[:, None]
    # In place, one pass after the other: a log_softmax would take two tensors and a second exponential.
    gradient_BV = logits_BV.to(torch.float32, copy=True)
    gradient_BV -= gradient_BV.amax(-1, keepdim=True)
    target_logits_B1 = gradient_BV.gather(1, targets_B1)
    sums_B1 = gradient_BV.exp_().sum(-1, keepdim=True)
    loss = ((sums_B1.log() - target_logits_B1) * weights_B1).sum()
    # d loss / d logits = softmax - 1 at the target.
    gradient_BV.mul_(weights_B1 / sums_B1).scatter_add_(1, targets_B1, -weights_B1)
    logits_BV.copy_(gradient_BV)
    return loss


def _times(grad: Tensor, factor: Tensor) -> Tensor:
    """Return their product; where backward begins at the loss the factor is 1, which a CPU sees without waiting."""
    return grad if factor.device.type == "cpu" and factor == 1 else grad * factor


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    """Return the sum, in fp32 where there are several parts, which may each be in bf16."""
    return part if total is None else total.float().add_(part)


def _slices(length: int, size: int) -> list[slice]:
    """Cut a length into slices of the size, or of 1 where that is less."""
    return [slice(start, start + max(1, size)) for start in range(0, length, max(1, size))]
