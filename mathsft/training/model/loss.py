"""Computes the loss of a micro-batch: cross-entropy of the response tokens, with their logits computed in chunks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import PreTrainedModel

from mathsft.footprint import block_tokens, chunk_tokens
from mathsft.training.batching.microbatches import NO_TARGET, MicroBatch
from mathsft.training.cpu.products import Products, products_of
from mathsft.training.model.attention import hidden_states


class MicroBatchLoss(nn.Module):
    """The model with its loss. Every use of the head's weight is inside this forward, because FSDP2 requires it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, micro_batch: MicroBatch, scale: float = 1.0) -> Tensor:
        """Return scale times the cross-entropy in nats, summed over response tokens (EOS included), an fp32 scalar.

        The backward pass must start at this scalar: a factor belongs into the scale.
        """
        # A token has a logit per vocabulary entry, and most tokens belong to prompts: compute logits for responses only.
        hidden_NE = hidden_states(self.model, micro_batch).flatten(0, 1).index_select(0, micro_batch.predictors_N)
        head = self.model.get_output_embeddings()
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_NE, head.weight, head.bias, micro_batch.targets_N, scale, products_of(head, hidden_NE)
        )
        return loss


class _ChunkedCrossEntropy(Function):
    """Head and cross-entropy in one function: the forward pass replaces each chunk of logits by its gradient.

    The scale is applied to each chunk, which is cheaper than multiplying the head's whole gradient afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NE: Tensor,
        weight_VE: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        scale: float,
        products: Products,
    ) -> Tensor:
        loss = torch.zeros((), device=hidden_NE.device)
        hidden_grad_NE = torch.empty_like(hidden_NE)
        chunks = _slices(len(hidden_NE), chunk_tokens(len(weight_VE), len(hidden_NE)))
        # Of several chunks, which may be in bf16, the head's gradients are summed in fp32.
        trained = [head if ctx.needs_input_grad[place] else None for place, head in ((1, weight_VE), (2, bias_V))]
        totals = [None if head is None or len(chunks) == 1 else _zeros_like(head) for head in trained]
        for chunk in chunks:
            hidden_CE, targets_C = hidden_NE[chunk], targets_N[chunk]
            logits_CV = products.linear(hidden_CE, weight_VE, bias_V)
            for block in _slices(len(logits_CV), block_tokens(len(weight_VE), logits_CV.device.type)):
                loss += _loss_and_gradient_(logits_CV[block], targets_C[block], scale)
            products.mm(logits_CV, weight_VE, out=hidden_grad_NE[chunk])
            if trained[0] is not None:
                totals[0] = _sum(totals[0], products.mm(logits_CV.t(), hidden_CE))
            if trained[1] is not None:
                totals[1] = _sum(totals[1], logits_CV.sum(0))
            del logits_CV  # the next chunk's logits would be computed while these are in memory
        # save_for_backward would keep another reference, and autograd accumulates in place only if it holds the only one.
        ctx.grads = [hidden_grad_NE, *totals]
        ctx.dtype = weight_VE.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor | None, ...]:
        # A product with loss_grad would need another tensor of the head's size at the step's peak of memory.
        if loss_grad.device.type == "cpu" and loss_grad != 1:  # on CUDA this check would synchronise
            raise ValueError(f"the gradient of the loss is {loss_grad.item()}, not 1: call backward() of the loss itself")
        grads = [None if grad is None else grad.to(ctx.dtype) for grad in ctx.grads]
        del ctx.grads
        return (*grads, None, None, None)


def _loss_and_gradient_(logits_BV: Tensor, targets_B: Tensor, scale: float) -> Tensor:
    """Return scale times the cross-entropy in nats, summed over the targets, and overwrite the logits with its gradient."""
    weights_B1 = (targets_B != NO_TARGET)[:, None] * scale
    targets_B1 = targets_B.clamp(min=0)[:, None]
    # In-place operations on one tensor: log_softmax would need a second tensor and a second exponential.
    gradient_BV = logits_BV.to(torch.float32, copy=True)
    gradient_BV -= gradient_BV.amax(-1, keepdim=True)
    target_logits_B1 = gradient_BV.gather(1, targets_B1)
    sums_B1 = gradient_BV.exp_().sum(-1, keepdim=True)
    loss = ((sums_B1.log() - target_logits_B1) * weights_B1).sum()
    # d loss / d logits = softmax - 1 at the target.
    gradient_BV.mul_(weights_B1 / sums_B1).scatter_add_(1, targets_B1, -weights_B1)
    logits_BV.copy_(gradient_BV)
    return loss


def _zeros_like(weight: Tensor) -> Tensor:
    return torch.zeros(weight.shape, device=weight.device)


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _slices(length: int, size: int) -> list[slice]:
    """Return slices of size elements that cover the length; the last one may be shorter."""
    return [slice(start, start + size) for start in range(0, length, size)]
