"""Rotary position embedding (arXiv:2104.09864) on a CPU in half the time; `model.patches` applies it.

The models of transformers make a copy of queries and keys with exchanged halves, and the backward pass adds the gradient
slice by slice. Here each half is written once.
"""

import functools
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

_ROTATE = "apply_rotary_pos_emb"
"""Name of the function that rotates queries and keys in the models of transformers."""


@functools.cache
def patched_class(kind: Any) -> type[nn.Module]:
    """Return a subclass whose forward method calls the faster function under the name apply_rotary_pos_emb.

    Replacing the function in the module of transformers would change every model of that kind in this process.
    """
    forward, original = kind.forward, kind.forward.__globals__[_ROTATE]

    def rotate(
        query_BHTD: Tensor, key_BKTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        # Some models rotate only a part of each head, or rotate in fp32.
        is_whole = (cos_BTD.shape[-1], cos_BTD.dtype) == (query_BHTD.shape[-1], query_BHTD.dtype)
        if args or options or not is_whole or query_BHTD.device.type != "cpu":
            return original(query_BHTD, key_BKTD, cos_BTD, sin_BTD, *args, **options)  # type: ignore[no-any-return]
        return _rotated(query_BHTD, key_BKTD, cos_BTD, sin_BTD)

    changed = FunctionType(
        forward.__code__,
        {**forward.__globals__, _ROTATE: rotate},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    changed.__kwdefaults__ = forward.__kwdefaults__
    return type(kind.__name__, (kind,), {"forward": changed})


def covers(module: nn.Module) -> bool:
    """Return whether the module is an attention layer that rotates halves of each head; some rotate adjacent pairs."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or _ROTATE not in forward.__code__.co_names:
        return False
    generator = torch.Generator().manual_seed(0)
    query_BHTD, key_BKTD = (torch.randn(1, num_heads, 3, 8, generator=generator) for num_heads in (2, 1))
    cos_BTD, sin_BTD = (torch.randn(1, 3, 8, generator=generator) for _ in range(2))
    try:
        expected = forward.__globals__[_ROTATE](query_BHTD, key_BKTD, cos_BTD, sin_BTD)
    except (TypeError, RuntimeError):  # it takes other arguments, or complex numbers
        return False
    actual = _rotated(query_BHTD, key_BKTD, cos_BTD, sin_BTD)
    return isinstance(expected, tuple) and all(torch.allclose(*pair) for pair in zip(expected, actual, strict=True))


def _rotated(query_BHTD: Tensor, key_BKTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> tuple[Tensor, Tensor]:
    cos_BT1D, sin_BT1D = cos_BTD[:, :, None], sin_BTD[:, :, None]
    query_BHTD, key_BKTD = (_Rotary.apply(x_BHTD, cos_BT1D, sin_BT1D) for x_BHTD in (query_BHTD, key_BKTD))  # type: ignore[no-untyped-call]
    return query_BHTD, key_BKTD


class _Rotary(Function):
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) for the halves x1 and x2 of every head; tokens come first in memory."""

    @staticmethod
    def forward(ctx: Any, x_BHTD: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1D, sin_BT1D)
        sin1, sin2 = sin_BT1D.chunk(2, dim=-1)
        return _turned(x_BHTD, cos_BT1D, -sin1, sin2)

    @staticmethod
    def backward(ctx: Any, grad_BHTD: Tensor) -> tuple[Tensor, None, None]:
        cos_BT1D, sin_BT1D = ctx.saved_tensors
        sin1, sin2 = sin_BT1D.chunk(2, dim=-1)
        return _turned(grad_BHTD, cos_BT1D, sin2, -sin1), None, None


def _turned(x_BHTD: Tensor, cos_BT1D: Tensor, from_second: Tensor, from_first: Tensor) -> Tensor:
    """Return (x1 cos1 + x2 from_second, x2 cos2 + x1 from_first) for the halves x1 and x2 of every head."""
    x_BTHD = x_BHTD.transpose(1, 2)
    out_BTHD = x_BTHD * cos_BT1D
    (first, second), (out_first, out_second) = x_BTHD.chunk(2, dim=-1), out_BTHD.chunk(2, dim=-1)
    out_first.addcmul_(second, from_second)
    out_second.addcmul_(first, from_first)
    return out_BTHD.transpose(1, 2)
