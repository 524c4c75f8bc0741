"""RMS norms computed block by block, against transformers' own."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mathsft.training.cpu import norms
from mathsft.training.model.patches import apply_patch
from mathsft.training.state import load_base

MakeModel = Callable[..., Path]


def outputs(norm: nn.Module, hidden: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the norm computes and the gradients of its input and its weight."""
    hidden = hidden.clone().requires_grad_()
    normed = norm(hidden)
    normed.backward(gradient)
    weight = norm.weight
    assert isinstance(weight, Tensor) and weight.grad is not None and hidden.grad is not None
    weight_grad, weight.grad = weight.grad, None
    return normed.detach(), hidden.grad, weight_grad


def pair(width: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Return transformers' norm and the same one computed by us."""
    norm = LlamaRMSNorm(width, eps=1e-3)
    norm.weight.data = torch.rand(width, generator=torch.Generator().manual_seed(1)) + 0.5
    ours = LlamaRMSNorm(width, eps=1e-3)
    ours.load_state_dict(norm.state_dict())
    assert apply_patch(norms, ours) == 1
    return norm.to(dtype), ours.to(dtype)


@pytest.mark.parametrize("num_tokens", [1, 127, 128, 300])
def test_values_and_gradients_are_those_of_transformers(num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    hidden, gradient = (torch.randn(2, num_tokens, 48, generator=generator) for _ in range(2))
    norm, ours = pair(48, torch.float32)
    before = hidden.clone()
    for actual, expected in zip(outputs(ours, hidden, gradient), outputs(norm, hidden, gradient), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(hidden, before)


def test_in_bf16_it_is_nearer_to_fp32_than_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, gradient = (torch.randn(1, 300, 48, generator=generator).bfloat16() for _ in range(2))
    norm, ours = pair(48, torch.bfloat16)
    exact, _ = pair(48, torch.float32)
    exact.load_state_dict({"weight": norm.state_dict()["weight"].float()})
    expected = outputs(exact, hidden.float(), gradient.float())
    theirs = [float((value - right).norm()) for value, right in zip(outputs(norm, hidden, gradient), expected, strict=True)]
    mine = [float((value - right).norm()) for value, right in zip(outputs(ours, hidden, gradient), expected, strict=True)]
    assert all(value.dtype == torch.bfloat16 for value in outputs(ours, hidden, gradient))
    assert all(my < their for my, their in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_every_norm_of_a_covered_model_is_computed_here(make_model: MakeModel, kind: str) -> None:
    base = load_base(make_model(kind), "tree")
    own = AutoModelForCausalLM.from_pretrained(base.folder)
    num_norms = sum(type(module).__name__.endswith("RMSNorm") for module in own.modules())
    assert num_norms == 2 * own.config.num_hidden_layers + 1
    assert apply_patch(norms, own) == num_norms


def test_a_norm_that_computes_something_else_is_left_alone() -> None:
    norm = GemmaRMSNorm(48)
    norm.weight.data.fill_(0.5)
    assert apply_patch(norms, norm) == 0
    assert type(norm) is GemmaRMSNorm


def test_a_copy_computes_with_its_own_weight() -> None:
    norm, ours = pair(48, torch.float32)
    copy = deepcopy(ours)
    copy.weight.data.zero_()
    assert not copy(torch.ones(1, 3, 48)).any()
    torch.testing.assert_close(ours(torch.ones(1, 3, 48)), norm(torch.ones(1, 3, 48)))
