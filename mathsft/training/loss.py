"""The loss of a row: cross-entropy of the response tokens, whose logits alone are computed, and never all at once."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear
from transformers import PreTrainedModel

from mathsft.training.attention import attention_arguments
from mathsft.training.rows import NO_TARGET, Row

CHUNK_LOGITS = 2**24
"""Logits that exist at once: 64 MiB in fp32, whatever the batch size and the vocabulary."""


class RowLoss(nn.Module):
    """The model with its loss: all that touches the head's weight happens inside this forward, as sharding needs it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, row: Row) -> Tensor:
        """Return the cross-entropy in nats summed over the row's response tokens, EOS included; a scalar in fp32."""
        hidden_BTE = self.model.base_model(
            input_ids=row.ids_BT, use_cache=False, **attention_arguments(self.model, row)
        ).last_hidden_state
        # Logits are a vocabulary wide and most tokens belong to prompts: the head sees only what predicts a response.
        hidden_NE = hidden_BTE.flatten(0, 1).index_select(0, row.predictors_N)
        head = self.model.get_output_embeddings()
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_NE, head.weight, head.bias, row.targets_N
        )
        return loss


class _ChunkedCrossEntropy(Function):
    """Head and cross-entropy in one: the gradient of a chunk's logits is made while they are there."""

    @staticmethod
    def forward(ctx: Any, hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
        num_chunk_tokens = max(1, CHUNK_LOGITS // len(weight_VE))
        is_target_N1 = (targets_N != NO_TARGET)[:, None]
        targets_N1 = targets_N.clamp(min=0)[:, None]
        minus_one_N1 = torch.full_like(targets_N1, -1, dtype=torch.float32)
        loss = torch.zeros((), device=hidden_NE.device)
        hidden_grad_NE = torch.empty_like(hidden_NE)
        # Sums over chunks in fp32: the parts may each be in bf16.
        weight_grad_VE = torch.zeros_like(weight_VE, dtype=torch.float32)
        bias_grad_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for start in range(0, len(hidden_NE), num_chunk_tokens):
            chunk = slice(start, start + num_chunk_tokens)
            logprobs_CV = linear(hidden_NE[chunk], weight_VE, bias_V).float().log_softmax(-1)
            loss -= (logprobs_CV.gather(1, targets_N1[chunk]) * is_target_N1[chunk]).sum()
            # d loss / d logits = softmax - 1 at the target.
            grad_CV = logprobs_CV.exp_().scatter_add_(1, targets_N1[chunk], minus_one_N1[chunk])
            grad_CV = grad_CV.mul_(is_target_N1[chunk]).to(hidden_NE.dtype)
            torch.mm(grad_CV, weight_VE, out=hidden_grad_NE[chunk])
            weight_grad_VE += grad_CV.t() @ hidden_NE[chunk]
            if bias_grad_V is not None:
                bias_grad_V += grad_CV.sum(0)
        ctx.save_for_backward(hidden_grad_NE, weight_grad_VE, bias_grad_V)
        ctx.dtype = weight_VE.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        hidden_grad_NE, weight_grad_VE, bias_grad_V = ctx.saved_tensors
        return (
            hidden_grad_NE * loss_grad,
            (weight_grad_VE * loss_grad).to(ctx.dtype),
            None if bias_grad_V is None else (bias_grad_V * loss_grad).to(ctx.dtype),
            None,
        )
