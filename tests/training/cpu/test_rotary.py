"""Rotary positions computed by halves, against transformers' own."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    PreTrainedModel,
)
from transformers.models.cohere import modeling_cohere
from transformers.models.cohere.modeling_cohere import CohereAttention, CohereConfig
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from mathsft.training.cpu import rotary
from mathsft.training.cpu.rotary import _rotated
from mathsft.training.model.patches import apply_patch
from mathsft.training.state import load_base
from tests.native import needs_bf16

MakeModel = Callable[..., Path]
Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def inputs(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Return queries and keys of five tokens as layers have them, with cosines and sines, and gradients of the results."""
    generator = torch.Generator().manual_seed(0)
    # Two texts, their tokens first in memory; both halves of an angle's row differ, as no model's do, to tell them apart.
    heads = [torch.randn(2, 5, num_heads, 8, generator=generator).transpose(1, 2) for num_heads in (4, 2)]
    angles = [torch.randn(2, 5, 8, generator=generator) for _ in range(2)]
    gradients = [torch.randn(2, num_heads, 5, 8, generator=generator) for num_heads in (4, 2)]
    return [x.to(dtype) for x in heads + angles], [x.to(dtype) for x in gradients]


def outputs(rotate: Rotate, arguments: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Return turned queries and keys, and the gradients of those that were turned."""
    query, key, cos, sin = arguments
    turned = [query.detach().requires_grad_(), key.detach().requires_grad_()]
    results = rotate(*turned, cos, sin)
    return [result.detach() for result in results] + list(torch.autograd.grad(results, turned, gradients))


def test_values_and_gradients_are_those_of_transformers() -> None:
    arguments, gradients = inputs(torch.float32)
    before = [argument.clone() for argument in arguments]
    expected = outputs(apply_rotary_pos_emb, arguments, gradients)
    for actual, value in zip(outputs(_rotated, arguments, gradients), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(argument, value) for argument, value in zip(arguments, before, strict=True))


def test_in_bf16_it_is_nearer_to_fp32_than_transformers() -> None:
    arguments, gradients = inputs(torch.bfloat16)
    in_fp32 = [argument.float() for argument in arguments], [gradient.float() for gradient in gradients]
    exact = outputs(apply_rotary_pos_emb, *in_fp32)
    mine, theirs = (outputs(rotate, arguments, gradients) for rotate in (_rotated, apply_rotary_pos_emb))
    for my, their, value in zip(mine, theirs, exact, strict=True):
        assert my.dtype == torch.bfloat16
        assert (my - value).norm() < (their - value).norm()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_every_layer_of_a_covered_model_turns_here_and_other_models_do_not(make_model: MakeModel, kind: str) -> None:
    base = load_base(make_model(kind), "eager")
    own = AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="eager").eval()
    ids = torch.randint(0, own.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as of_ours:
        ours = base.model(input_ids=ids).logits
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as of_own:
        expected = own(input_ids=ids).logits
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    turned, turned_by_own = (sum(event.name == "_Rotary" for event in one.events()) for one in (of_ours, of_own))
    assert (turned, turned_by_own) == (2 * own.config.num_hidden_layers, 0)
    assert modeling_llama.apply_rotary_pos_emb is apply_rotary_pos_emb


def test_a_copy_of_a_model_turns_here_too(make_model: MakeModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model("llama"))
    assert apply_patch(rotary, model) == model.config.num_hidden_layers
    kinds = [[type(layer.self_attn) for layer in one.model.layers] for one in (model, deepcopy(model))]
    assert kinds[0] == kinds[1]


def small_neox() -> PreTrainedModel:
    """Return a model that turns a quarter of each head."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, rotary_pct=0.25
        )
    )


def small_olmo() -> PreTrainedModel:
    """Return a model that turns in fp32, whatever it computes in."""
    return OlmoForCausalLM(
        OlmoConfig(
            vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, pad_token_id=0
        )
    )


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize("make", [small_neox, small_olmo])
def test_a_model_that_turns_otherwise_computes_what_it_did(make: Callable[[], PreTrainedModel], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = make().to(dtype).eval()
    ids = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids=ids).logits
    apply_patch(rotary, model)
    actual = model(input_ids=ids).logits
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-3)
    actual.float().sum().backward()


def test_layers_that_turn_neighbours_are_left_alone() -> None:
    layer = CohereAttention(CohereConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=1), layer_idx=0)
    assert hasattr(modeling_cohere, "apply_rotary_pos_emb")
    assert apply_patch(rotary, layer) == 0
    assert type(layer) is CohereAttention
