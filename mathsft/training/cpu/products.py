"""Matrix products in fp32 on a CPU by numpy's BLAS instead of torch's; `model.patches` applies it to linear layers.

torch multiplies fp32 matrices with Intel's MKL, numpy with OpenBLAS. On AMD's processors MKL is slower (docs/results.md).
Both compute the same sums; the order of the terms differs.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.profiler import record_function

NUMPY_PRODUCT = "numpy.matmul"
"""The profiler's name of a product by numpy."""


_FROM_WIDTH = 512
"""Narrower layers stay with torch: from here on products by numpy were measured to be faster."""


@dataclass(frozen=True)
class Products:
    """The functions that multiply matrices, with the arguments of torch.mm and of torch.nn.functional.linear."""

    mm: Callable[..., Tensor]
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def products_of(layer: nn.Module, left: Tensor) -> Products:
    """Return the products with which this layer multiplies such a tensor."""
    return _NUMPY if isinstance(layer, _NumpyLinear) and _is_supported(left) else _TORCH


class _NumpyLinear(nn.Linear):
    """A linear layer whose products in fp32 on a CPU are numpy's."""

    def forward(self, input: Tensor) -> Tensor:
        if not _is_supported(input):
            return super().forward(input)
        return _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]


def covers(module: nn.Module) -> bool:
    """Return whether the module is torch's own linear layer, and wide enough to gain."""
    return type(module) is nn.Linear and module.in_features >= _FROM_WIDTH


@functools.cache
def patched_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the linear layer that multiplies with numpy."""
    return _NumpyLinear


def _is_supported(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def numpy_mm(left_MK: Tensor, right_KN: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product of two matrices, in `out` if this is given."""
    if out is None:
        out = left_MK.new_empty(left_MK.shape[0], right_KN.shape[1])
    with record_function(NUMPY_PRODUCT):
        np.matmul(_as_array(left_MK), _as_array(right_KN), out=out.numpy())
    return out


def _as_array(matrix: Tensor) -> Any:
    """Return the matrix as numpy's array without a copy, or a copy if BLAS cannot read it: numpy would not use BLAS then."""
    can_read = matrix.is_contiguous() or matrix.t().is_contiguous()
    return (matrix if can_read else matrix.contiguous()).detach().numpy()


def _linear(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    out_NO = numpy_mm(input_NI, weight_OI.t())
    return out_NO if bias_O is None else out_NO.add_(bias_O)


class _Linear(Function):
    """input @ weight.T + bias over the last dimension."""

    @staticmethod
    def forward(ctx: Any, input_BTI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(input_BTI, weight_OI)
        out_NO = _linear(input_BTI.reshape(-1, input_BTI.shape[-1]), weight_OI, bias_O)
        return out_NO.view(*input_BTI.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, out_grad_BTO: Tensor) -> tuple[Tensor | None, ...]:
        input_BTI, weight_OI = ctx.saved_tensors
        out_grad_NO, input_NI = (x.reshape(-1, x.shape[-1]) for x in (out_grad_BTO, input_BTI))
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            numpy_mm(out_grad_NO, weight_OI).view(input_BTI.shape) if needs_input else None,
            numpy_mm(out_grad_NO.t(), input_NI) if needs_weight else None,
            out_grad_NO.sum(0) if needs_bias else None,
        )


_TORCH = Products(torch.mm, torch.nn.functional.linear)
_NUMPY = Products(numpy_mm, _linear)
