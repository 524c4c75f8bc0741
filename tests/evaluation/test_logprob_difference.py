"""When an engine's log probabilities are those of the trainer, and when they are not."""

import math

import pytest

from mathsft.evaluation.logprob_difference import Difference, difference
from mathsft.records import LogprobCheck

NUM_TOKENS = 64


def compare(differences: list[float], engine_dtype: str, logprob: float = -2.0) -> Difference:
    logprobs = [logprob] * NUM_TOKENS
    logprob_check = LogprobCheck(tuple(range(NUM_TOKENS + 1)), tuple(logprobs))
    changed = [value + change for value, change in zip(logprobs, differences, strict=True)]
    return difference(logprob_check, changed, engine_dtype)


def test_in_fp32_the_mean_difference_is_bounded() -> None:
    assert compare([0.9e-4, -0.9e-4] * 32, "float32").is_explained
    found = compare([1.1e-4, -1.1e-4] * 32, "float32")
    assert not found.is_explained
    assert str(found) == "by 0.00011 nats per token, over 64 tokens"


def test_in_bf16_the_difference_of_the_means_is() -> None:
    assert compare([0.2, -0.2] * 32, "bfloat16").is_explained
    found = compare([-0.06] * NUM_TOKENS, "bfloat16")
    assert not found.is_explained
    assert str(found) == "by 0.06 nats per token, over 64 tokens"


@pytest.mark.parametrize("engine_dtype", ["float32", "bfloat16"])
def test_what_is_not_a_number_agrees_with_nothing(engine_dtype: str) -> None:
    assert not compare([math.nan] * NUM_TOKENS, engine_dtype).is_explained


def test_wild_weights_are_not_held_to_more_than_fp32_can_do() -> None:
    # Measured: the quickstart's base with noise 10 times the size of its weights.
    assert compare([5.3e-3] * NUM_TOKENS, "float32", logprob=-114.1).is_explained
    assert not compare([0.1] * NUM_TOKENS, "float32", logprob=-114.1).is_explained
