from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mathsft.records import Example
from mathsft.training.batches import micro_batches
from mathsft.training.loss import summed_loss
from mathsft.training.state import load_base


def make_batch() -> list[Example]:
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 257, (count,), generator=generator).tolist())

    return [
        Example(str(n), tokens(prompt), (*tokens(response), 0))
        for n, (prompt, response) in enumerate([(9, 4), (3, 17), (25, 1), (1, 8), (12, 12)])
    ]


def loss_and_gradients(model: PreTrainedModel, batch: list[Example], budget: int) -> tuple[float, dict[str, Tensor]]:
    num_response_tokens = sum(len(example.response_ids) for example in batch)
    model.zero_grad()
    total = 0.0
    for micro_batch in micro_batches(batch, budget, torch.device("cpu")):
        loss = summed_loss(model, micro_batch) / num_response_tokens
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def plain_loss_and_gradients(model: PreTrainedModel, batch: list[Example]) -> tuple[float, dict[str, Tensor]]:
    """The textbook way: one padded batch, an attention mask, labels -100 wherever there is no response."""
    rows = [example.prompt_ids + example.response_ids for example in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + (7,) * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    for row, example in enumerate(batch):
        labels[row, : len(example.prompt_ids)] = -100
    model.zero_grad()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    loss.backward()
    return loss.item(), gradients(model)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("budget", [10_000, 60, 1])
def test_loss_and_gradients_are_those_of_the_plain_padded_batch_however_it_is_split(
    make_model: Callable[..., Path], kind: str, tied: bool, attention: str, budget: int
) -> None:
    model = load_base(make_model(kind, tied), attention).model
    expected_loss, expected = plain_loss_and_gradients(model, make_batch())
    loss, actual = loss_and_gradients(model, make_batch(), budget)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
