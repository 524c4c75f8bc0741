import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from mathsft import footprint
from mathsft.config.schema import TrainingSettings
from mathsft.records import Example
from mathsft.training.cpu import products
from mathsft.training.state import load_base
from mathsft.training.step import TrainingStep
from tests.native import needs_bf16
from tests.training.gradients import assert_equal_gradients, outcome_and_gradients, random_batch

MakeModel = Callable[..., Path]
CPU = torch.device("cpu")


def plain_loss_and_gradients(model: PreTrainedModel, batch: Sequence[Example]) -> tuple[float, dict[str, Tensor]]:
    """The textbook way: one padded batch, an attention mask, labels -100 wherever there is no response."""
    lines = [example.prompt_ids + example.response_ids for example in batch]
    width = max(map(len, lines))
    ids = torch.tensor([line + (7,) * (width - len(line)) for line in lines])
    mask = torch.tensor([[1] * len(line) + [0] * (width - len(line)) for line in lines])
    labels = ids.masked_fill(mask == 0, -100)
    for line, example in enumerate(batch):
        labels[line, : len(example.prompt_ids)] = -100
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("tied", "numpy_products"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen2", {}),
        ("qwen2", {"num_key_value_heads": 4}),
        ("llama", {}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True}),
        ("mistral", {"sliding_window": 20}),
    ],
)
def test_loss_and_every_gradient_are_those_of_the_plain_padded_batch(
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    settings: dict[str, object],
    tied: bool,
    numpy_products: bool,
) -> None:
    folder = make_model(kind, tied, **settings)
    monkeypatch.setattr(footprint, "CHUNK_LOGITS", 257 * 10)  # ten tokens a chunk
    monkeypatch.setattr(footprint, "BLOCK_LOGITS", {"cpu": 257 * 4})
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    monkeypatch.setattr(products, "_FROM_WIDTH", 1)
    base = load_base(folder, "tree", numpy_products=numpy_products)
    assert isinstance(base.model.get_output_embeddings(), products._NumpyLinear) == numpy_products
    for seed, prefix_tokens in enumerate((0, 3, 40)):
        batch = random_batch(seed, prefix_tokens)
        expected_loss, expected = plain_loss_and_gradients(plain, batch)
        for budget, checkpointing in ((10_000, True), (150, False)):
            outcome, actual = outcome_and_gradients(
                base, batch, token_budget_tokens=budget, gradient_checkpointing=checkpointing
            )
            assert outcome.loss == pytest.approx(expected_loss, rel=1e-5)
            assert_equal_gradients(actual, expected)


def test_what_is_shared_is_computed_once(make_model: MakeModel) -> None:
    batch = random_batch(3, prefix_tokens=70)
    outcome, _ = outcome_and_gradients(load_base(make_model(), "tree"), batch)
    assert outcome.num_tokens == sum(len(example.prompt_ids) + len(example.response_ids) for example in batch)
    assert outcome.num_response_tokens == sum(len(example.response_ids) for example in batch)
    assert outcome.num_computed_tokens < outcome.num_tokens / 2


def curve(folder: Path, **training: object) -> list[float]:
    batches = [random_batch(seed % 3, prefix_tokens=20) for seed in range(40)]
    prefix_ids = ()
    settings = TrainingSettings(learning_rate=3e-3, batch_size=1, **training)
    step = TrainingStep(load_base(folder, "tree"), settings, len(batches), CPU, prefix_ids)
    return [step.take(batch, number).loss for number, batch in enumerate(batches, start=1)]


@needs_bf16
def test_the_loss_curve_in_bf16_stays_within_a_fifth_of_a_percent_of_that_in_fp32(make_model: MakeModel) -> None:
    folder = make_model(initializer_range=0.02)
    fp32, bf16 = (np.array(curve(folder, precision=precision)) for precision in ("fp32", "bf16"))
    assert fp32[-1] < 0.8 * fp32[0]
    assert (fp32 != bf16).all()
    assert np.abs(bf16 / fp32 - 1).max() < 0.002


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_bf16), "fp32"])
def test_a_step_restored_from_its_tensors_goes_on_to_the_bit(make_model: MakeModel, precision: str) -> None:
    folder, batches = make_model(), [random_batch(seed, prefix_tokens=20) for seed in range(6)]
    training = TrainingSettings(learning_rate=1e-2, batch_size=4, precision=precision, weight_decay=0.1)

    def fresh() -> TrainingStep:
        return TrainingStep(load_base(folder, "tree"), training, 6, CPU)

    whole = fresh()
    expected = [whole.take(batch, number) for number, batch in enumerate(batches, start=1)]
    first, second = fresh(), fresh()
    assert [first.take(batch, number) for number, batch in enumerate(batches[:3], start=1)] == expected[:3]
    second.load_tensors({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert [second.take(batch, number) for number, batch in enumerate(batches[3:], start=4)] == expected[3:]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


@needs_bf16
def test_a_new_run_starts_from_the_base_weights_in_any_precision(make_model: MakeModel) -> None:
    base = load_base(make_model("qwen2", False, torch.bfloat16), "tree")
    for precision in ("fp32", "bf16", "fp32"):
        training = TrainingSettings(learning_rate=1e-2, batch_size=4, precision=precision)
        step = TrainingStep(base, training, 1, CPU)
        assert all(torch.equal(weight, base.weights[name].float()) for name, weight in step.weights().items())
        step.take(random_batch(0, prefix_tokens=0), 1)
        assert not any(torch.equal(weight, base.weights[name].float()) for name, weight in step.weights().items())


def test_a_step_that_is_not_finite_changes_nothing(make_model: MakeModel) -> None:
    base = load_base(make_model(), "tree")
    step = TrainingStep(base, TrainingSettings(learning_rate=1e-2, batch_size=4, precision="fp32"), 4, CPU)
    batch = random_batch(0, prefix_tokens=0)
    step.take(batch, 1)
    good = {name: tensor.clone() for name, tensor in step.tensors().items()}
    expected = step.take(batch, 2)
    step.load_tensors(good)
    with torch.no_grad():
        next(base.model.parameters()).fill_(math.nan)
    before = {name: tensor.clone() for name, tensor in step.tensors().items()}
    assert not step.take(batch, 2).is_finite
    assert all(torch.equal(tensor, before[name]) or tensor.isnan().any() for name, tensor in step.tensors().items())
    step.load_tensors(good)
    assert step.take(batch, 2) == expected


def test_the_loss_never_holds_more_logits_than_a_chunk(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "CHUNK_LOGITS", 257 * 10)
    sizes = []

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            if function is torch.nn.functional.linear and result.shape[-1] == 257:
                sizes.append(result.numel())
            return result

    batch = random_batch(0, prefix_tokens=0)
    with Recorder():
        outcome_and_gradients(load_base(make_model(), "tree"), batch)
    assert 257 * 5 < max(sizes) <= 257 * 10
    assert sum(sizes) >= 257 * sum(len(example.response_ids) for example in batch)


def test_clipping_scales_the_gradient_to_the_norm(make_model: MakeModel) -> None:
    base, batch = load_base(make_model(), "tree"), random_batch(0, prefix_tokens=0)
    outcome, gradients = outcome_and_gradients(base, batch)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))
    assert outcome.gradient_norm == pytest.approx(norm)
    _, clipped = outcome_and_gradients(base, batch, max_gradient_norm=norm / 4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(clipped[name], gradient / 4, rtol=1e-4, atol=1e-9)
