"""One step on random batches, and the gradient of every parameter."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.state import BaseModel
from mathsft.training.step import StepOutcome, TrainingStep

CPU = torch.device("cpu")


def random_batch(seed: int, prefix_tokens: int) -> list[Example]:
    """Make questions of random lengths after a preamble, some with several solutions, some solutions of a single token."""
    random = np.random.default_rng(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(random.integers(1, 257, count).tolist())

    prefix = tokens(prefix_tokens)
    batch = []
    for _ in range(6):
        prompt = prefix + tokens(random.integers(1, 40))
        batch += [Example("", prompt, (*tokens(random.integers(0, 25)), 0)) for _ in range(random.choice([1, 1, 2, 4]))]
    return [batch[place] for place in random.permutation(len(batch))]


def outcome_and_gradients(
    base: BaseModel, batch: Sequence[Example], **training: object
) -> tuple[StepOutcome, dict[str, Tensor]]:
    """Take one step; with beta1 = 0 and no clipping AdamW's first moment is then the gradient itself."""
    settings = {"precision": "fp32", "beta1": 0.0, "max_gradient_norm": 1e30, "token_budget_tokens": 10_000}
    training_settings = TrainingSettings(learning_rate=1e-3, batch_size=len(batch), **(settings | training))
    step = TrainingStep(base, training_settings, 1, CPU, common_prefix(batch))
    outcome = step.take(batch, 1)
    gradients = {name: tensor for name, tensor in step.tensors().items() if name.startswith("moment1.")}
    return outcome, {name.removeprefix("moment1."): gradient for name, gradient in gradients.items()}


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    errors = {name: ((actual[name] - expected[name]).norm() / expected[name].norm()).item() for name in expected}
    assert max(errors.values()) < 1e-5, errors
