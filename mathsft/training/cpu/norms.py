"""RMS norm (arXiv:1910.07467) on a CPU with a third of the passes over memory; `model.patches` applies it.

The models of transformers convert, square, average, scale and round whole tensors, one operation after the other. In narrow
models this takes a tenth of a step. Here all operations run on one block of tokens that stays in the cache.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

_BLOCK_ELEMENTS = 2**17
"""Three fp32 blocks of this size fit into a core's L2 cache, and the overhead of a call is small in comparison."""


@functools.cache
def patched_class(kind: Any) -> type[nn.Module]:
    """Return a subclass that computes the norm in blocks on a CPU."""

    def forward(norm: nn.Module, hidden_BTE: Tensor) -> Tensor:
        if hidden_BTE.device.type != "cpu":
            return kind.forward(norm, hidden_BTE)  # type: ignore[no-any-return]
        return _RMSNorm.apply(hidden_BTE, norm.weight, _epsilon(norm))  # type: ignore[no-any-return, no-untyped-call]

    return type(kind.__name__, (kind,), {"forward": forward})


@torch.no_grad()
def covers(module: nn.Module) -> bool:
    """Return whether the module is an RMS norm with the same values as `_RMSNorm`; some models scale by 1 + weight."""
    if not type(module).__name__.endswith("RMSNorm"):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or len(list(module.parameters())) > 1 or not _epsilon(module):
        return False
    generator = torch.Generator().manual_seed(0)
    hidden_BTE = torch.randn(1, 4, len(weight), generator=generator)
    out = module(hidden_BTE)
    return isinstance(out, Tensor) and torch.allclose(out, _RMSNorm.apply(hidden_BTE, weight, _epsilon(module)), rtol=1e-5)  # type: ignore[no-untyped-call]


def _epsilon(norm: nn.Module) -> float:
    return float(getattr(norm, "variance_epsilon", 0.0) or getattr(norm, "eps", 0.0))


class _RMSNorm(Function):
    """weight * hidden / sqrt(mean(hidden ** 2) + epsilon) over the last dimension, computed in fp32."""

    @staticmethod
    def forward(ctx: Any, hidden_BTE: Tensor, weight_E: Tensor, epsilon: float) -> Tensor:
        hidden_NE = hidden_BTE.flatten(0, -2)
        normed_NE = torch.empty_like(hidden_NE)
        scales_N1 = torch.empty(len(hidden_NE), 1)
        weight32_E = weight_E.float()
        for block in _blocks(hidden_NE):
            values_BE = hidden_NE[block].to(torch.float32, copy=True)
            norms_B1 = torch.linalg.vector_norm(values_BE, dim=-1, keepdim=True)
            scales_B1 = scales_N1[block].copy_(norms_B1.square_().div_(len(weight_E)).add_(epsilon).rsqrt_())
            normed_NE[block] = values_BE.mul_(scales_B1).mul_(weight32_E)
        ctx.save_for_backward(hidden_NE, weight_E, scales_N1)
        return normed_NE.view(hidden_BTE.shape)

    @staticmethod
    def backward(ctx: Any, normed_grad_BTE: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_NE, weight_E, scales_N1 = ctx.saved_tensors
        normed_grad_NE = normed_grad_BTE.flatten(0, -2)
        hidden_grad_NE = torch.empty_like(hidden_NE)
        weight32_E = weight_E.float()
        weight_grad_E = torch.zeros_like(weight32_E)
        for block in _blocks(hidden_NE):
            scales_B1 = scales_N1[block]
            # With u = hidden * scale and g the gradient of u * weight:
            # d weight = sum(g * u), d hidden = scale * (g * weight - u * mean(g * weight * u)).
            units_BE = hidden_NE[block].to(torch.float32, copy=True).mul_(scales_B1)
            grads_BE = normed_grad_NE[block].to(torch.float32, copy=True)
            products_BE = grads_BE * units_BE
            weight_grad_E += products_BE.sum(0)
            means_B1 = torch.mv(products_BE, weight32_E).div_(len(weight_E))[:, None]
            grads_BE.mul_(weight32_E).addcmul_(units_BE, means_B1, value=-1).mul_(scales_B1)
            hidden_grad_NE[block] = grads_BE
        return hidden_grad_NE.view(normed_grad_BTE.shape), weight_grad_E.to(weight_E.dtype), None


def _blocks(hidden_NE: Tensor) -> list[slice]:
    num_tokens = max(1, _BLOCK_ELEMENTS // hidden_NE.shape[1])
    return [slice(start, start + num_tokens) for start in range(0, len(hidden_NE), num_tokens)]
