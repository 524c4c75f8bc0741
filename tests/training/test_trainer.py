import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mathsft.config.schema import Scalar, TrainingSettings
from mathsft.data.pools import load_pools
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Diverged, Run
from mathsft.training.meter.flops import model_flops
from mathsft.training.step import OutOfMemoryError, StepOutcome, TrainingStep
from mathsft.worker_settings import WorkerSettings
from tests.build import make_plan, make_run
from tests.native import MULTIPLIES_BF16
from tests.training.published import curve, names_in, weights
from tests.training.settled import Trainer

Make = Callable[..., Trainer]

CHANGED = {
    "learning_rate": 1e-3,
    "batch_size": 5,
    "warmup_fraction": 0.5,
    "weight_decay": 0.1,
    "beta1": 0.5,
    "beta2": 0.9,
    "max_gradient_norm": 1e3,
    "precision": "bf16",
    "max_length_tokens": 90,
    "schedule": "cosine",
    "decay_fraction": 0.95,
}
"""Another value for each training setting that decides the weights."""

NEEDS: dict[str, dict[str, Scalar]] = {"decay_fraction": {"schedule": "wsd"}}
"""The values of other settings without which a setting has no effect."""

OF_ADAPTERS = ("method", "lora")
"""Settings of which test_adapters.py shows the effect."""

CHANGES_NO_UPDATE = {"token_budget_tokens": 100, "gradient_checkpointing": True}
"""Settings of how the weights are computed: they decide time and memory, and change the update by rounding at most."""


def run_of(name: str = "trial-0", num_examples: int = 40, seed: int = 0, **training: Scalar) -> Run:
    overrides = {f"training.{name}": value for name, value in training.items()}
    return make_run(name, overrides, make_plan(num_examples), seed=seed)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum((one[name].double() - other[name].double()).pow(2).sum().item() for name in one) ** 0.5


def test_every_way_to_a_step_gives_the_same_bits_and_the_same_curve(settings: WorkerSettings) -> None:
    run, other = run_of(), run_of("trial-1", seed=1, learning_rate=1e-2)
    whole = Trainer(settings).advance(run, 10)
    expected = curve(settings.layout.root, run.name)
    assert [line["step"] for line in expected] == list(range(1, 11))

    trainer = Trainer(settings)
    first = trainer.advance(run, 4)
    trainer.park()
    in_parts = trainer.advance(replace(run, state="running", reason="how a run is going does not matter"), 10)
    assert (in_parts.fingerprint, curve(settings.layout.root, run.name)) == (whole.fingerprint, expected)
    assert in_parts.costs.num_tokens < whole.costs.num_tokens

    trainer.advance(other, 3)
    back = trainer.advance(run, 4)
    assert (back.fingerprint, curve(settings.layout.root, run.name)) == (first.fingerprint, expected[:4])
    again = trainer.advance(run, 10)
    assert (again.fingerprint, curve(settings.layout.root, run.name)) == (whole.fingerprint, expected)
    back = trainer.advance(run, 4)
    assert (back.fingerprint, curve(settings.layout.root, run.name)) == (first.fingerprint, expected[:4])
    left = set(names_in(settings.layout.run(run.name))) - {"full-state.safetensors"}  # a slow run saves one
    assert left == {"metrics.jsonl", "step-000004", "step-000010"}


def test_a_checkpoint_says_what_it_is_and_what_it_cost(settings: WorkerSettings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trainer = Trainer(settings)
    checkpoint = trainer.advance(run_of(max_length_tokens=90), 2)
    assert (checkpoint.run, checkpoint.step) == ("trial-0", 2)
    assert checkpoint.path == "runs/trial-0/step-000002"
    costs = checkpoint.costs
    assert set(costs.seconds) == {"encode", "train", "check", "save"}
    assert costs.busy_seconds == sum(costs.seconds.values())
    assert costs.predicted_memory is not None
    assert costs.predicted_memory.total > 0
    # 0 where an earlier test of this process took more; test_peak_memory.py measures it in processes of their own.
    assert 0 <= costs.peak_memory_bytes < 2**30
    assert costs.num_tokens == sum(line["num_tokens"] for line in curve(settings.layout.root))
    assert trainer.advance(run_of("trial-1", max_length_tokens=90), 2).costs.encode_seconds == 0
    [message] = [record.getMessage() for record in caplog.records if "trial-0" in record.getMessage()]
    assert message.startswith("run trial-0: 10 steps from the base weights, ")
    assert costs.num_too_long > 0
    assert message.endswith(f", {costs.num_too_long} too long and dropped")


def test_no_training_setting_is_inert(settings: WorkerSettings, subtests: pytest.Subtests) -> None:
    trainer, names = Trainer(settings), [name for name in TrainingSettings.model_fields if name not in OF_ADAPTERS]
    base, plain = (weights(settings.layout.root, trainer.advance(run_of(), step)) for step in (0, 3))
    for number, name in enumerate(names, start=1):
        if name == "precision" and not MULTIPLIES_BF16:
            continue
        before, needed = plain, NEEDS.get(name, {})
        if needed:
            before = weights(settings.layout.root, trainer.advance(run_of(f"before-{number}", **needed), 3))
        changed = run_of(f"trial-{number}", **{**needed, name: (CHANGED | CHANGES_NO_UPDATE)[name]})
        share = distance(before, weights(settings.layout.root, trainer.advance(changed, 3))) / distance(before, base)
        with subtests.test(name):
            assert share < 1e-3 if name in CHANGES_NO_UPDATE else share > 1e-2


def test_the_seed_the_template_and_the_length_of_the_plan_decide_the_weights(settings: WorkerSettings) -> None:
    trainer = Trainer(settings)
    runs = [
        run_of("a"),
        run_of("b", seed=1),
        run_of("c", num_examples=80),
        replace(run_of("d"), overrides={"prompt.template": "r1_zero"}),
    ]
    assert len({trainer.advance(run, 2).fingerprint for run in runs}) == len(runs)


def test_every_step_moves_the_weights(settings: WorkerSettings) -> None:
    trainer = Trainer(settings)
    assert len({trainer.advance(run_of(num_examples=20), step).fingerprint for step in range(6)}) == 6


def test_step_0_is_the_base_model_even_of_a_run_without_examples(settings: WorkerSettings) -> None:
    trainer = Trainer(settings)
    trainer.advance(run_of(), 2)
    baseline = trainer.advance(run_of("baseline", num_examples=0), 0)
    base = load_file(Path(settings.experiment.model.path) / "model.safetensors")
    assert distance(weights(settings.layout.root, baseline), base) == 0
    assert curve(settings.layout.root, "baseline") == []


def test_a_step_after_the_end_is_refused(settings: WorkerSettings) -> None:
    with pytest.raises(ValueError, match="run trial-0 has 10 steps, but was asked for step 11"):
        Trainer(settings).advance(run_of(), 11)


def test_a_run_that_diverges_says_so_for_good_and_spares_the_next_one(settings: WorkerSettings) -> None:
    trainer = Trainer(settings)
    expected = trainer.advance(run_of(), 3)
    wild = run_of("trial-1", learning_rate=1e30)
    diverged = trainer.advance(wild, 10)
    num_steps = len(curve(settings.layout.root, wild.name))
    assert isinstance(diverged, Diverged)
    assert diverged.step == num_steps + 1
    assert diverged.reason.endswith(f" at step {diverged.step} (learning rate 1e+30)")
    assert any(start in diverged.reason for start in ("loss is nan", "loss is inf", "gradient norm is"))
    assert trainer.advance(wild, 10) == diverged
    assert len(curve(settings.layout.root, wild.name)) == num_steps
    # What the diverging step would have changed was not applied: the steps before it can still be had.
    assert isinstance(trainer.advance(wild, 0), Checkpoint)
    assert (settings.layout.root / "runs" / "trial-1" / "step-000000" / "model.safetensors").exists()
    assert trainer.advance(run_of(), 3).fingerprint == expected.fingerprint


def test_a_held_run_whose_metrics_another_trainer_rewrote_goes_on_from_its_own_step(settings: WorkerSettings) -> None:
    run = run_of()
    expected = Trainer(settings).advance(run, 6).fingerprint, curve(settings.layout.root, run.name)
    first, second = Trainer(settings), Trainer(settings)
    first.advance(run, 4)
    for to_step in (9, 2):  # further than the first trainer, and less far
        second.advance(run, to_step)
        assert (first.advance(run, 6).fingerprint, curve(settings.layout.root, run.name)) == expected
        first.advance(run, 4)


def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_later(settings: WorkerSettings) -> None:
    run = run_of()
    trainer = Trainer(settings)
    expected = (
        Trainer(replace(settings, layout=StudyLayout(settings.layout.root.with_name("undisturbed"))))
        .advance(run, 4)
        .fingerprint
    )
    metrics = settings.layout.metrics(run.name)
    metrics.parent.mkdir(parents=True)
    metrics.symlink_to("/dev/full")  # the kernel's own refusal
    with pytest.raises(UserError, match="trial-0: the disk is full; free space for the run's metrics and checkpoints"):
        trainer.advance(run, 4)
    metrics.unlink()
    assert trainer.advance(run, 4).fingerprint == expected
    assert [line["step"] for line in curve(settings.layout.root, run.name)] == [1, 2, 3, 4]


def test_utilization_is_the_operations_of_the_computed_tokens_against_the_best_products(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathsft.training.meter.utilization.best_gemm_flops_per_second", lambda dtype, device: 1e9)
    run = run_of()
    Trainer(settings).advance(run, 1)
    [line] = settings.layout.metrics(run.name).read_text().splitlines()
    step = json.loads(line)
    config = AutoConfig.from_pretrained(settings.experiment.model.path)
    # At least all tokens in all layers; at most as if each attended to a row of its own length, and all had logits.
    computed = step["num_computed_tokens"]
    flops = model_flops(config)
    least, most = (flops.total(computed, *others) / 1e9 for others in ((computed, 0), (computed * computed, computed)))
    assert least < step["flop_utilization"] * step["seconds"] < most


def test_the_end_of_a_response_is_learned(settings: WorkerSettings) -> None:
    run = run_of(num_examples=400, batch_size=8, learning_rate=1e-2)
    checkpoint = Trainer(settings).advance(run, 50)
    folder = settings.layout.root / checkpoint.path
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    problem = load_pools(settings.experiment.data)["train"][0]
    text = f"User: {problem.problem}\nAssistant: <think> {problem.solution} </think> <answer> {problem.answer} </answer>"
    with torch.no_grad():
        next_token = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].argmax()
    assert next_token == tokenizer.eos_token_id


def test_data_that_leave_nothing_to_train_on_are_the_users_to_mend(settings: WorkerSettings) -> None:
    with pytest.raises(UserError, match="max_length_tokens = 10"):
        Trainer(settings).advance(run_of(max_length_tokens=10), 1)


def test_a_budget_that_was_halved_is_kept_for_later_runs_even_if_the_step_failed(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(settings)

    def run_out(step: TrainingStep, *_: object) -> StepOutcome:
        step.max_fitting_tokens = 90
        raise OutOfMemoryError("the longest example does not fit")

    with monkeypatch.context() as patch, pytest.raises(OutOfMemoryError):
        patch.setattr(TrainingStep, "take", run_out)
        trainer.advance(run_of(), 1)
    made: list[TrainingStep] = []
    take = TrainingStep.take
    monkeypatch.setattr(TrainingStep, "take", lambda step, *given: made.append(step) or take(step, *given))
    trainer.advance(run_of("trial-1", seed=1), 1)
    assert [step.max_fitting_tokens for step in made] == [90]


def test_the_devices_budget_and_checkpointing_apply_to_every_run_and_change_no_update(settings: WorkerSettings) -> None:
    small = replace(settings.worker_device, budget_tokens=90, gradient_checkpointing=True)
    run = run_of()
    expected = Trainer(settings).advance(run, 5)
    losses = [line["loss"] for line in curve(settings.layout.root, run.name)]
    elsewhere = replace(settings, layout=StudyLayout(settings.layout.root.with_name("elsewhere")), worker_device=small)
    trainer = Trainer(elsewhere)
    found = trainer.advance(run, 5)
    assert found.costs.predicted_memory.activations < expected.costs.predicted_memory.activations
    assert [line["loss"] for line in curve(elsewhere.layout.root, run.name)] == pytest.approx(losses, rel=1e-4)
    on_disk = [curve(root, run.name)[0]["num_computed_tokens"] for root in (settings.layout.root, elsewhere.layout.root)]
    assert on_disk[0] != on_disk[1], "other micro-batches"
