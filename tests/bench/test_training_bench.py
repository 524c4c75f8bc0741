import json

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.meter import Counter, Measurement
from bench.training import _gemm_share, _median_ratio
from bench.workload import BATCH_SIZE, ROWS, choose_problems, result_line
from mathsft.data.problems import load_problems
from mathsft.training.meter.flops import ModelFlops


def measurement(cpu_seconds: float, num_examples: int = BATCH_SIZE) -> Measurement:
    return Measurement(cpu_seconds, num_examples, 100, 1, 2.0, 2**20, 10, 55, 4)


def test_the_rows_give_eight_batches_of_different_problems_by_seed() -> None:
    problems = load_problems(str(ROWS)).problems
    chosen = choose_problems(problems, 8, seed=0)
    assert len({problem.id for problem in chosen}) == 8 * BATCH_SIZE
    assert choose_problems(problems, 8, seed=0) == chosen
    assert choose_problems(problems, 8, seed=1) != chosen


def test_the_last_line_is_one_json_object_of_the_agreed_names() -> None:
    line = result_line("50m", "fp32", 4.12345, 2.98765, 0.654321, 0.76543, 1.23456e-6)
    assert "\n" not in line
    assert list(json.loads(line).items()) == [
        ("model", "50m"),
        ("precision", "fp32"),
        ("ours_vs_trl_best", 4.123),
        ("ours_vs_strongest_peer", 2.988),
        ("gemm_share", 0.6543),
        ("product_share", 0.765),
        ("max_grad_error", 1.23e-6),
    ]


def test_ratios_are_of_equal_batches_in_the_same_repeat() -> None:
    ours = [measurement(1.0), measurement(10.0), measurement(2.0)]
    # Half as many examples: 3, 4 and 5 times as slow; of the medians of the seconds it would be 5.
    peer = [measurement(1.5, BATCH_SIZE // 2), measurement(20.0, BATCH_SIZE // 2), measurement(5.0, BATCH_SIZE // 2)]
    assert _median_ratio(peer, ours) == pytest.approx(4)


def test_the_share_of_the_gemm_rate_counts_what_was_computed() -> None:
    flops = ModelFlops(per_token=7, per_attended_token=2, per_predicted_token=5)
    # 10 x 7 + 55 x 2 + 4 x 5 operations in 2 CPU-seconds on a machine that could do 400 in that time.
    assert _gemm_share([measurement(2.0)], flops, gemm_rate=200.0) == pytest.approx(0.5)


def test_tokens_and_the_pairs_that_attend_are_counted_whoever_calls_the_model() -> None:
    config = Qwen2Config(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = Qwen2ForCausalLM(config)
    padded, packed = Counter(model), Counter(model)
    ids_BT = torch.ones(2, 5, dtype=torch.long)
    model(input_ids=ids_BT, attention_mask=torch.tensor([[1] * 5, [1] * 3 + [0] * 2]))
    assert (padded.num_computed_tokens, padded.num_attended_tokens) == (10, 2 * 15)
    # Two sequences in one row, of 3 and 2 tokens.
    packed.num_computed_tokens = packed.num_attended_tokens = 0
    model.model(ids_BT[:1], position_ids=torch.tensor([[0, 1, 2, 0, 1]]))
    assert (packed.num_computed_tokens, packed.num_attended_tokens) == (5, 6 + 3)
