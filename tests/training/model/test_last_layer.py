"""Which models get a last layer of predicting tokens only; its gradients are held against transformers by test_step.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from mathsft.training.batching.microbatches import MicroBatch, padded_micro_batches
from mathsft.training.model import last_layer
from mathsft.training.model.attention import predicting_states
from mathsft.training.model.patches import apply_patch
from mathsft.training.state import load_base
from tests.training.gradients import random_batch

MakeModel = Callable[..., Path]


def padded_row() -> MicroBatch:
    [row] = padded_micro_batches(random_batch(0, prefix_tokens=20), 10_000, torch.device("cpu"))
    return row


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_only_the_last_mlp_skips_tokens_that_predict_nothing(make_model: MakeModel, kind: str) -> None:
    model, row = load_base(make_model(kind), "eager").model, padded_row()
    expected_BTE = model.base_model(input_ids=row.ids_BT).last_hidden_state
    num_rows: list[int] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda mlp, inputs, out: num_rows.append(out.shape[:-1].numel()))
    actual_NE = predicting_states(model, row)
    num_predictors = len(row.predictors_N)
    assert num_predictors < row.ids_BT.numel() / 2
    assert num_rows == [row.ids_BT.numel()] * (len(num_rows) - 1) + [num_predictors]
    torch.testing.assert_close(actual_NE, expected_BTE.flatten(0, 1)[row.predictors_N], rtol=1e-5, atol=1e-5)


def test_a_model_that_adds_its_parts_otherwise_keeps_its_layers() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    plain, scaled = (
        GraniteForCausalLM(
            GraniteConfig(
                vocab_size=300,
                num_key_value_heads=1,
                pad_token_id=0,
                residual_multiplier=multiplier,
                initializer_range=0.5,
                **sizes,
            )
        )
        for multiplier in (1.0, 0.5)
    )
    assert [apply_patch(last_layer, model) for model in (plain, scaled)] == [1, 0]
    row = padded_row()
    expected_BTE = scaled.model(input_ids=row.ids_BT).last_hidden_state
    assert torch.equal(predicting_states(scaled, row), expected_BTE.flatten(0, 1)[row.predictors_N])
