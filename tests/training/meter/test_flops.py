import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from mathsft.training.meter.flops import model_flops

SIZES = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 10,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_operations_are_those_counted_by_hand() -> None:
    flops = model_flops(Qwen2Config(**SIZES))
    # Weights of a layer: q and o 8x8 each, k and v 8x4 each, gate, up and down 8x10 each.
    assert flops.per_token == 6 * 3 * (2 * 64 + 2 * 32 + 3 * 80)
    # q k' and p v: 2 operations in each of 4 heads of 2, forward and twice backward, in 3 layers.
    assert flops.per_attended_token == 2 * 2 * 8 * 3 * 3
    assert flops.per_predicted_token == 6 * 8 * 11
    assert flops.total(5, 15, 2) == 5 * 7776 + 15 * 288 + 2 * 528


@pytest.mark.parametrize(("config_class", "model_class"), [(Qwen2Config, Qwen2ForCausalLM), (LlamaConfig, LlamaForCausalLM)])
def test_operations_are_those_that_torch_counts(config_class: type, model_class: type) -> None:
    # A head dimension that is not hidden_size / heads.
    config = config_class(**SIZES, head_dim=6, attn_implementation="eager")
    model, num_tokens = model_class(config), 7
    ids_BT = torch.arange(num_tokens)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    # Eager attention computes the half that the mask hides, too.
    assert counter.get_total_flops() == model_flops(config).total(num_tokens, num_tokens**2, num_tokens)
