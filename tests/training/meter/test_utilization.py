"""The yardstick of utilisation, and what is measured with it."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from mathsft.training.meter.dimensions import dimensions_of
from mathsft.training.meter.flops import ModelFlops
from mathsft.training.meter.gemm import best_gemm_flops_per_second
from mathsft.training.meter.utilization import Utilization
from mathsft.training.state import load_base
from mathsft.training.step import StepOutcome
from tests.native import needs_bf16

CPU = torch.device("cpu")
OUTCOME = StepOutcome(
    loss=1.0,
    gradient_norm=1.0,
    learning_rate=1e-3,
    num_tokens=30,
    num_computed_tokens=10,
    num_attended_tokens=55,
    num_response_tokens=4,
)


def test_the_best_of_all_products_counts_by_the_given_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathsft.training.meter.gemm.SIZES", (8, 16))
    monkeypatch.setattr("mathsft.training.meter.gemm.ENOUGH_SECONDS", 600.0)  # on a busy machine, too
    ticks = count()
    # A product takes one tick: the larger ones are the faster.
    assert best_gemm_flops_per_second(torch.float32, CPU, clock=lambda: next(ticks)) == 2 * 16**3


@pytest.mark.parametrize("dtype", [pytest.param(torch.bfloat16, marks=needs_bf16), torch.float32])
def test_measuring_is_cheap_and_leaves_no_trace_in_the_global_generator(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.undo()  # the real sizes
    before = torch.get_rng_state()
    assert best_gemm_flops_per_second(dtype, CPU) > 1e8
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_is_rated_by_what_its_computed_tokens_need(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {torch.bfloat16: 400.0, torch.float32: 100.0}
    monkeypatch.setattr("mathsft.training.meter.utilization.model_flops", lambda config: ModelFlops(7, 2, 5))
    monkeypatch.setattr(
        "mathsft.training.meter.utilization.best_gemm_flops_per_second", lambda dtype, device: rates.pop(dtype)
    )
    utilization = Utilization(load_base(make_model(), "tree").model, CPU)
    # 10 x 7 + 55 x 2 + 4 x 5 operations in 2 seconds; each precision's yardstick is made once.
    assert [utilization.share(OUTCOME, precision, 2.0) for precision in ("bf16", "fp32", "bf16")] == [0.25, 1.0, 0.25]


def test_a_model_of_another_kind_has_no_utilization() -> None:
    experts = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_local_experts=2,
        )
    )
    learned_positions = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2))
    for model in (experts, learned_positions):
        assert dimensions_of(model) is None
        assert Utilization(model, CPU).share(OUTCOME, "fp32", 1.0) is None
