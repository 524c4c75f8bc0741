"""LoRA adapters: their training and their checkpoints against peft itself, on whole models in fp32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from mathsft.config.schema import LoraSettings, TrainingSettings
from mathsft.data.weight_tensors import AdaptedWeights, weights_in, write_merged
from mathsft.data.weights import ADAPTER_FILE, fingerprint
from mathsft.errors import CheckpointError, UserError
from mathsft.footprint import activation_bytes
from mathsft.publication import ADAPTER_CONFIG
from mathsft.records import Checkpoint, Example, Run
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.meter.peak_memory import micro_batch_size
from mathsft.training.model.attention import EAGER, TREE
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.state import load_base
from mathsft.training.step import TrainingStep
from mathsft.worker_settings import WorkerSettings
from tests.build import make_plan, make_run
from tests.training.conftest import MakeModel, MakeSettings
from tests.training.gradients import random_batch
from tests.training.meter.test_peak_memory import kept_bytes
from tests.training.published import curve
from tests.training.settled import Trainer

CPU = torch.device("cpu")
KINDS = {
    "plain": {},
    "rank-stabilised": {"rslora": True, "alpha": 8},
    "dora": {"dora": True},
    "two targets": {"targets": "q_proj, down_proj"},
}
CHANGED = {"rank": 4, "alpha": 64, "dropout": 0.3, "targets": "q_proj,v_proj", "rslora": True, "dora": True}
"""Another value for each setting of an adapter."""


def lora_run(name: str = "trial-0", seed: int = 0, num_examples: int = 40, **lora: object) -> Run:
    overrides = {"training.method": "lora", **{f"training.lora.{key}": value for key, value in lora.items()}}
    return make_run(name, overrides, make_plan(num_examples), seed=seed)


def folder_of(settings: WorkerSettings, checkpoint: object) -> Path:
    assert isinstance(checkpoint, Checkpoint)
    return settings.layout / checkpoint.path


def base_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def padded_loss(model: PreTrainedModel, batch: list[Example]) -> Tensor:
    """Return the mean loss of the response tokens of one padded batch, as transformers computes it."""
    width = max(len(example.prompt_ids) + len(example.response_ids) for example in batch)
    ids, labels, mask = (torch.full((len(batch), width), fill) for fill in (0, -100, 0))
    for row, example in enumerate(batch):
        tokens, start = example.prompt_ids + example.response_ids, len(example.prompt_ids)
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels[row, start : len(tokens)] = torch.tensor(example.response_ids)
    loss: Tensor = model(input_ids=ids, labels=labels, attention_mask=mask).loss
    return loss


@pytest.mark.parametrize("attention", [TREE, EAGER])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_peft_on_a_padded_batch(make_model: MakeModel, kind: str, attention: str) -> None:
    folder, batch = make_model(tied=kind == "plain"), random_batch(1, prefix_tokens=20)
    lora = LoraSettings.model_validate({"rank": 4, **KINDS[kind]})
    training = TrainingSettings(
        method="lora",
        lora=lora,
        learning_rate=1e-3,
        batch_size=len(batch),
        precision="fp32",
        beta1=0.0,  # the first moment is then the gradient itself
        max_gradient_norm=1e30,
        token_budget_tokens=300,
    )
    step = TrainingStep(load_base(folder, attention), training, 1, CPU, common_prefix(batch))
    torch.manual_seed(0)
    # B begins with zeros, with which A has no gradient.
    drawn = {name: value + 0.1 * torch.randn_like(value) for name, value in step.tensors().items() if "master" in name}
    step.load_tensors(step.tensors() | drawn)

    targets = sorted({name.rpartition(".")[2] for name, _ in base_model(folder).named_modules() if name.endswith("_proj")})
    config = LoraConfig(
        r=4,
        lora_alpha=lora.alpha,
        target_modules=targets if lora.targets == "all-linear" else ["q_proj", "down_proj"],
        use_rslora=lora.rslora,
        use_dora=lora.dora,
    )
    peer = get_peft_model(base_model(folder), config).eval()
    trained = {name: value for name, value in peer.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(drawn[f"master.{name.removeprefix('base_model.model.')}"])
    expected = padded_loss(peer, batch)
    expected.backward()

    outcome = step.take(batch, 1)
    assert outcome.loss == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: value for name, value in step.tensors().items() if name.startswith("moment1.")}
    assert gradients.keys() == {f"moment1.{name.removeprefix('base_model.model.')}" for name in trained}
    for name, parameter in trained.items():
        gradient = gradients[f"moment1.{name.removeprefix('base_model.model.')}"]
        assert (gradient - parameter.grad).norm() < 1e-5 * parameter.grad.norm(), name


def test_every_way_to_a_step_gives_the_same_bits_also_with_dropout(settings: WorkerSettings) -> None:
    run = lora_run(dropout=0.3)
    whole = Trainer(settings).advance(run, 10)
    expected = curve(settings.layout.root, run.name)

    trainer = Trainer(settings)
    trainer.advance(run, 4)
    trainer._save_state(trainer._current)
    full = trainer.advance(make_run("trial-1", plan=make_plan(40)), 3)
    trainer.advance(lora_run("trial-2", rank=3, dora=True), 2)
    resumed = trainer.advance(run, 10)
    assert (resumed.fingerprint, curve(settings.layout.root, run.name)) == (whole.fingerprint, expected)
    assert resumed.costs.num_tokens < whole.costs.num_tokens  # from the full state, not from step 0

    assert trainer.advance(make_run("trial-3", plan=make_plan(40)), 3).fingerprint == full.fingerprint
    alone = Trainer(settings).advance(make_run("trial-4", plan=make_plan(40)), 3)
    assert alone.fingerprint == full.fingerprint  # full fine-tuning is the same after adapters in the same model


@pytest.mark.parametrize("name", ["method", *LoraSettings.model_fields])
def test_no_setting_of_an_adapter_is_inert(settings: WorkerSettings, name: str) -> None:
    trainer = Trainer(settings)
    before = trainer.advance(lora_run(), 3)
    changed = make_run("trial-1", plan=make_plan(40)) if name == "method" else lora_run("trial-1", **{name: CHANGED[name]})
    after = trainer.advance(changed, 3)
    one, other = (torch.tensor(checkpoint.logprob_check.logprobs) for checkpoint in (before, after))
    untrained = torch.tensor(trainer.advance(lora_run("trial-2"), 0).logprob_check.logprobs)
    assert (one - other).norm() > 1e-2 * (one - untrained).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_pefts_folder_and_merges_as_pefts_does(
    make_model: MakeModel, make_settings: MakeSettings, tmp_path: Path, kind: str
) -> None:
    settings = make_settings(make_model(), learning_rate=3e-2)
    checkpoint = Trainer(settings).advance(lora_run(**KINDS[kind]), 4)
    folder = folder_of(settings, checkpoint)
    assert {path.name for path in folder.iterdir()} == {ADAPTER_CONFIG, ADAPTER_FILE}
    model_folder = Path(settings.experiment.model.path)
    peer = PeftModel.from_pretrained(base_model(model_folder), folder).eval()
    tensors = load_file(folder / ADAPTER_FILE)
    state = get_peft_model_state_dict(peer)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)

    token_ids = torch.tensor([checkpoint.logprob_check.token_ids])
    logprobs = peer(input_ids=token_ids).logits.log_softmax(-1)[0, :-1].gather(1, token_ids[0, 1:, None])[:, 0]
    assert torch.allclose(logprobs, torch.tensor(checkpoint.logprob_check.logprobs), atol=1e-4)
    plain = base_model(model_folder)(input_ids=token_ids).logits.log_softmax(-1)[0, :-1].gather(1, token_ids[0, 1:, None])
    assert not torch.allclose(logprobs, plain[:, 0], atol=1e-2)

    weights = weights_in(folder, settings.layout.base_weights)
    assert isinstance(weights, AdaptedWeights)
    merged = dict(weights.tensors())
    expected = peer.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
    write_merged(weights, tmp_path / "merged", None)
    written = base_model(tmp_path / "merged").state_dict()
    assert all(torch.equal(written[name], tensor) for name, tensor in merged.items())


def test_step_0_changes_nothing_and_scaling_is_part_of_the_fingerprint(settings: WorkerSettings) -> None:
    trainer = Trainer(settings)
    checkpoint = trainer.advance(lora_run(dora=True), 0)
    assert isinstance(checkpoint, Checkpoint)
    weights = weights_in(folder_of(settings, checkpoint), settings.layout.base_weights)
    base = load_file(settings.layout.base_weights / "model.safetensors")
    assert all(torch.allclose(tensor, base[name], rtol=1e-6) for name, tensor in weights.tensors())
    other = trainer.advance(lora_run("trial-1", dora=True, alpha=33), 0)
    files = [(folder_of(settings, one) / ADAPTER_FILE).read_bytes() for one in (checkpoint, other)]
    assert files[0] == files[1]
    assert checkpoint.fingerprint != other.fingerprint


def test_two_processes_of_hash_seeds_publish_the_same_bytes(settings: WorkerSettings) -> None:
    folder = folder_of(settings, Trainer(settings).advance(lora_run(), 1))
    config = (folder / ADAPTER_CONFIG).read_text()
    targets = config[config.index('"target_modules"') :].partition("]")[0]
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert [targets.index(f'"{name}"') for name in names] == sorted(targets.index(f'"{name}"') for name in names)
    assert str(settings.experiment.model.path) not in config


def test_a_layer_that_the_model_lacks_is_named_in_one_line(settings: WorkerSettings) -> None:
    message = (
        "training.lora.targets: 'c_attn' is no linear layer of a Qwen2ForCausalLM; choose of down_proj, gate_proj, k_proj, "
        "o_proj, q_proj, up_proj, v_proj, or all-linear"
    )
    with pytest.raises(UserError) as caught:
        Trainer(settings).advance(lora_run(targets="q_proj,c_attn"), 1)
    assert str(caught.value) == message


def test_the_copy_of_the_base_model_is_written_again_if_it_is_damaged(settings: WorkerSettings) -> None:
    checkpoint = Trainer(settings).advance(lora_run(), 1)
    before = fingerprint(settings.layout.base_weights)
    file = settings.layout.base_weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="belongs to a base model with the fingerprint"):
        weights_in(folder_of(settings, checkpoint), settings.layout.base_weights)
    Trainer(settings).advance(lora_run("trial-1"), 1)
    assert fingerprint(settings.layout.base_weights) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda config: config.replace('"r": 16', '"r": 8'), "q_proj.weight: its tensors have the shapes"),
        (lambda config: config.replace('"r": 16', '"r": 0'), "cannot be read"),
        (lambda config: "[1]", "cannot be read"),
        (lambda config: config.replace('"use_dora": false', '"use_dora": true'), "its tensors have the shapes"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(settings: WorkerSettings, damage: object, message: str) -> None:
    folder = folder_of(settings, Trainer(settings).advance(lora_run(targets="q_proj"), 1))
    path = folder / ADAPTER_CONFIG
    path.write_text(damage(path.read_text()))
    with pytest.raises(CheckpointError, match=message):
        weights_in(folder, settings.layout.base_weights).shapes()


def test_a_run_in_bf16_trains_fp32_adapters_beside_frozen_bf16_weights(
    make_model: MakeModel, make_settings: MakeSettings
) -> None:
    settings = make_settings(make_model(dtype=torch.bfloat16), precision="bf16", learning_rate=1e-2)
    trainer = Trainer(settings)
    checkpoint = trainer.advance(lora_run(), 8)
    losses = [line["loss"] for line in curve(settings.layout.root)]
    assert losses[-1] < losses[0]
    model = trainer._base.model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(folder_of(settings, checkpoint) / ADAPTER_FILE).values()} == {torch.float32}
    names = {parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" not in name}
    assert names == {False}
    predicted = checkpoint.costs.predicted_memory
    full = trainer.advance(make_run("trial-1", plan=make_plan(40)), 1).costs.predicted_memory
    assert predicted is not None and full is not None
    assert predicted.optimizer < full.optimizer / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", [TREE, EAGER])
def test_the_predicted_sizes_are_those_of_the_adapter(make_model: MakeModel, kind: str, attention: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "head_dim": 16}
    base, batch = load_base(make_model(**sizes), attention), random_batch(1, prefix_tokens=20)
    lora = LoraSettings.model_validate({"rank": 4, **KINDS[kind]})
    training = TrainingSettings(method="lora", lora=lora, learning_rate=1e-3, batch_size=len(batch), precision="fp32")
    step = TrainingStep(base, training, 1, CPU, common_prefix(batch))
    assert base.size.num_trained(training) == sum(weight.numel() for weight in step.weights().values())
    row, loss = step.largest_micro_batch(batch), MicroBatchLoss(base.model)
    dimensions = base.size.dimensions
    assert dimensions is not None
    size = micro_batch_size(dimensions, row, attention, torch.float32)
    predicted = activation_bytes(dimensions, size, training, "cpu", base.size.adapted(training))
    of_loss = 2 * len(row.targets_N) * 64 * 4  # without a gradient of the head, which does not train
    # What only the gradient of a layer without an adapter would need is not kept.
    assert kept_bytes(loss, row) - of_loss < 1.06 * predicted
    if kind != "two targets":
        assert kept_bytes(loss, row) - of_loss > 0.85 * predicted


def test_the_engine_check_publishes_a_pair_for_each_method(settings: WorkerSettings) -> None:
    both = replace(settings, methods=("full", "lora"))
    published = Trainer(both).publish_for_check()
    names = ["full-base", "full-changed", "lora-base", "lora-changed"]
    assert [Path(checkpoint.path).name for checkpoint in published] == names
    base, changed, plain_adapter, changed_adapter = (torch.tensor(one.logprob_check.logprobs) for one in published)
    assert torch.allclose(base, plain_adapter, atol=1e-5)
    for other in (changed, changed_adapter):
        assert (base - other).abs().mean() > 1e-2
