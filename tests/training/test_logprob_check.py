"""The logprob check: what published weights make of a fixed text, and nothing else changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from transformers import AutoModelForCausalLM

from mathsft.data.weights import fingerprint
from mathsft.records import Diverged, Example
from mathsft.training.logprob_check import NUM_CHECK_TOKENS, changed_copy, check_token_ids, make_logprob_check
from mathsft.training.state import load_base, publish, tensors_to_publish
from mathsft.worker_settings import WorkerSettings
from tests.build import make_plan, make_trial
from tests.native import needs_bf16
from tests.training.settled import Trainer

MakeModel = Callable[..., Path]
MakeSettings = Callable[..., WorkerSettings]
TOKEN_IDS = tuple(range(1, NUM_CHECK_TOKENS + 1))


def reference(folder: Path, token_ids: tuple[int, ...]) -> list[float]:
    """Return the log probabilities that transformers, in fp32, gives the tokens but the first."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logprobs_TV = model(torch.tensor([token_ids])).logits[0, :-1].log_softmax(1)
    return [logprobs_TV[place, token].item() for place, token in enumerate(token_ids[1:])]


def test_the_text_is_that_of_the_first_examples() -> None:
    examples = [Example("", (1, 2), (3,)), Example("", (4,), (5,) * 100)]
    assert check_token_ids(examples) == (1, 2, 3, 4, *(5,) * 61)
    assert check_token_ids(examples[:1]) == (1, 2, 3)


@pytest.mark.parametrize("attention", ["tree", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_check_is_of_the_published_weights(
    make_model: MakeModel, tmp_path: Path, tied: bool, dtype: torch.dtype, attention: str
) -> None:
    folder = make_model(tied=tied, dtype=dtype)
    base = load_base(folder, attention)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    weights = {name: weight.float() * 1.1 for name, weight in base.weights.items()}
    logprob_check = make_logprob_check(base.model, tensors_to_publish(base, weights), TOKEN_IDS, torch.float32)
    publish(base, weights, tmp_path / "published")
    assert len(logprob_check.logprobs) == NUM_CHECK_TOKENS - 1
    assert logprob_check.logprobs == pytest.approx(reference(tmp_path / "published", TOKEN_IDS), abs=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert base.model.config._attn_implementation == attention


@needs_bf16
def test_a_bf16_check_is_near_the_one_in_fp32(make_model: MakeModel) -> None:
    folder = make_model(dtype=torch.bfloat16)
    base = load_base(folder, "tree")
    exact, coarse = (
        make_logprob_check(base.model, base.weights, TOKEN_IDS, dtype).logprobs for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact != coarse
    assert sum(coarse) / len(coarse) == pytest.approx(sum(exact) / len(exact), abs=0.05)


def test_every_checkpoint_has_a_check_the_baseline_too(make_model: MakeModel, make_settings: MakeSettings) -> None:
    settings = make_settings(make_model(tied=True))
    trainer = Trainer(settings)
    run = make_trial(plan=make_plan(8, (0.0, 1.0)))
    checks = []
    for step in (0, 2):
        checkpoint = trainer.advance(run, step)
        expected = reference(settings.layout.root / checkpoint.path, checkpoint.logprob_check.token_ids)
        assert checkpoint.logprob_check.logprobs == pytest.approx(expected, abs=1e-5)
        checks.append(checkpoint.logprob_check)
    assert checks[0] != checks[1]


def test_weights_that_predict_nothing_finite_have_diverged(
    make_model: MakeModel, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_settings(make_model()))
    run = make_trial(0, {"training.learning_rate": 1e38}, make_plan(8, (0.5, 1.0)))
    checkpoint = trainer.advance(run, 1)  # the step itself is finite, as its loss is that of the weights before it
    assert isinstance(checkpoint, Diverged)
    assert "not finite at step 1" in checkpoint.reason
    assert trainer.advance(run, 2) == checkpoint


def test_every_tensor_of_a_changed_copy_is_another(make_model: MakeModel) -> None:
    base = load_base(make_model(tied=False, dtype=torch.bfloat16), "sdpa")
    weights = {**base.weights, "bias": torch.zeros(64)}
    changed = changed_copy(weights)
    assert list(changed) == list(weights)
    for name, weight in weights.items():
        assert changed[name].dtype == weight.dtype
        difference = (changed[name].float() - weight.float()).square().mean().sqrt()
        size = weight.float().square().mean().sqrt() or torch.tensor(0.1)
        assert 0.05 < difference / size < 0.15, name


def test_what_an_engine_is_checked_by_are_two_models(make_model: MakeModel, make_settings: MakeSettings) -> None:
    settings = make_settings(make_model(tied=True))
    trainer = Trainer(settings)
    pair = trainer.publish_for_check()
    for checkpoint in pair:
        expected = reference(settings.layout.root / checkpoint.path, checkpoint.logprob_check.token_ids)
        assert checkpoint.logprob_check.logprobs == pytest.approx(expected, abs=1e-5)
        assert checkpoint.fingerprint == fingerprint(settings.layout.root / checkpoint.path)
    base, changed = pair
    assert base.logprob_check != changed.logprob_check
    run = make_trial(plan=make_plan(8, (0.0, 1.0)))
    assert trainer.advance(run, 2) == replace(Trainer(settings).advance(run, 2), costs=ANY), "a run does not notice"
