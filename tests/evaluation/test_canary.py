"""When an engine's log probabilities are those of the trainer, and when they are not."""

import math

import pytest

from mathsft.evaluation.canary import disagreement
from mathsft.records import Canary

NUM_TOKENS = 64


def compare(differences: list[float], engine_dtype: str, logprob: float = -2.0) -> str:
    logprobs = [logprob] * NUM_TOKENS
    canary = Canary(tuple(range(NUM_TOKENS + 1)), tuple(logprobs))
    changed = [value + change for value, change in zip(logprobs, differences, strict=True)]
    return disagreement(canary, changed, engine_dtype)


def one_token(change: float) -> list[float]:
    return [change] + [0.0] * (NUM_TOKENS - 1)


def test_in_fp32_no_token_may_differ() -> None:
    assert compare(one_token(0.9e-4), "float32") == ""
    assert compare(one_token(-1.1e-4), "float32") == "by up to 0.00011 nats a token, over 64 tokens"


def test_in_bf16_their_mean_may_not() -> None:
    assert compare(one_token(0.3), "bfloat16") == ""
    assert compare([0.2, -0.2] * 32, "bfloat16") == ""
    assert compare([-0.06] * NUM_TOKENS, "bfloat16") == "on average by 0.06 nats a token, over 64 tokens"


@pytest.mark.parametrize("engine_dtype", ["float32", "bfloat16"])
def test_what_is_not_a_number_agrees_with_nothing(engine_dtype: str) -> None:
    assert "nan" in compare([math.nan] * NUM_TOKENS, engine_dtype)


def test_wild_weights_are_not_held_to_more_than_fp32_can_do() -> None:
    # Measured: the quickstart's base with its weights times 3, and with noise 10 times their size.
    assert compare(one_token(1.5e-4), "float32", logprob=-100.6) == ""
    assert compare(one_token(5.3e-3), "float32", logprob=-114.1) == ""
    assert compare(one_token(0.1), "float32", logprob=-114.1) != ""
