"""mathsft export: whole models and adapters, with their cards; and the line for rates of the other method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mathsft.cli import main
from mathsft.commands.method_note import method_note, promoted_note, warm_note
from mathsft.config.load import identity, load_settings
from mathsft.data.weights import ADAPTER_FILE, fingerprint
from mathsft.layout import StudyLayout
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from tests.build import make_experiment, make_plan, make_trial
from tests.training.settled import Trainer


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyLayout:
    """Train three trials for a step, with full fine-tuning, LoRA and DoRA, and record them."""
    from mathsft.tasks.quickstart.generator import base_model_folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mathsft.training.meter.gemm.SIZES", (64,))
    layout = StudyLayout(tmp_path / "studies" / "mine")
    local = make_experiment(str(base_model_folder()), max_length_tokens=256)
    settings = WorkerSettings(local, WorkerDevice("cpu", 1, "tree", "float32", 0.5, False), layout)
    methods: list[dict[str, Any]] = [
        {},
        {"training.method": "lora"},
        {"training.method": "lora", "training.lora.dora": True},
    ]
    trainer = Trainer(settings)
    layout.root.mkdir(parents=True)
    store = StudyStore.open(layout.database_url, "mine")
    store.record_settings({"model.path": "quickstart", "prompt.template": "short"})
    for number, overrides in enumerate(methods):
        run = make_trial(number, overrides, make_plan(16), value=0.5, experiment=make_experiment(max_length_tokens=256))
        store.write(run)
        store.write(trainer.advance(replace(run, state="running", value=None), 1))
    store.close()
    return layout


def export(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["export", "mine", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_run_is_exported_whole_as_an_adapter_or_merged(study: StudyLayout, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = export("0", capsys=capsys)
    folder = study.export("trial-0")
    assert (code, said) == (
        0,
        f"trial-0, step 1: a Hugging Face folder with a model card, which says how to load it, in {folder}\n",
    )
    published = study.checkpoint("trial-0", 1)
    assert fingerprint(folder) == fingerprint(published)
    assert "This folder holds the whole model" in (folder / "README.md").read_text()
    assert not (published / "README.md").exists()
    assert export("0", capsys=capsys) == (
        2,
        f"python -m mathsft export: {folder} exists already; remove it, or give another folder with --to\n",
    )

    code, said = export("1", "--to", "adapter", capsys=capsys)
    assert code == 0 and "an adapter beside the base model" in said
    card = Path("adapter/README.md").read_text()
    assert "library_name: peft" in card
    assert "`vllm serve quickstart --enable-lora --max-lora-rank 16 --lora-modules math=.` serves it." in card
    assert "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)" in card
    assert fingerprint(Path("adapter")) == fingerprint(study.checkpoint("trial-1", 1))
    export("2", "--to", "dora", capsys=capsys)
    assert "vLLM serves no DoRA adapters: `mathsft export --merge`" in Path("dora/README.md").read_text()

    code, said = export("1", "--merge", "--to", "merged", capsys=capsys)
    assert code == 0, said
    merged, base = (load_file(folder / "model.safetensors") for folder in (Path("merged"), study.base_weights))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in merged.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in base.items()
    }
    adapted = {name for name, tensor in merged.items() if not torch.equal(tensor, base[name])}
    assert adapted and all(name.endswith("_proj.weight") for name in adapted)
    assert "This folder holds the whole model" in Path("merged/README.md").read_text()
    assert Path("merged/tokenizer.json").is_file()


def test_what_cannot_be_exported_is_one_line(study: StudyLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("0", "--step", "7", capsys=capsys) == (
        2,
        "python -m mathsft export: trial-0: no weights of step 7 are on disk; steps with weights: 1\n",
    )
    Path("file").touch()
    code, said = export("0", "--to", "file/folder", capsys=capsys)
    assert code == 2 and "file/folder: cannot be made (File exists); give another folder with --to" in said
    folder = study.checkpoint("trial-1", 1)
    tensors = load_file(folder / ADAPTER_FILE)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / ADAPTER_FILE)
    code, said = export("1", capsys=capsys)
    assert code == 2 and "the weights changed: their hash is" in said
    (study.base_weights / "model.safetensors").write_bytes(b"x")
    code, said = export("2", "--merge", capsys=capsys)
    assert code == 2 and "--merge: the adapter belongs to weights with the hash" in said
    assert not study.export("trial-2").exists()


FACT = "LoRA's best rates are about 10 times those of full fine-tuning"


def test_learning_rates_of_the_other_method_get_one_line() -> None:
    def note(study: str, *assignments: str, is_search: bool = True) -> str | None:
        return method_note(load_settings(study, None, assignments), is_search=is_search)

    assert note("quickstart") is None
    assert note("quickstart", "training.method=lora") == (
        f"training.method is lora, but the study was written for full: {FACT}; its learning rates are 1e-05 to 0.01: try "
        "--set search.training.learning_rate.low=0.0001 --set search.training.learning_rate.high=0.1"
    )
    own_range = ("search.training.learning_rate.low=1e-4", "search.training.learning_rate.high=0.1")
    assert note("quickstart", "training.method=lora", *own_range) is None
    assert note("qwen2.5-math-1.5b-lora") is None
    with_another_experiment = load_settings("quickstart", "qwen2.5-math-1.5b-lora", [])
    assert method_note(with_another_experiment, is_search=False) == (
        f"training.method is lora, but the study was written for full: {FACT}; try --set training.learning_rate=0.005"
    )
    assert note("quickstart", "training.method=lora", is_search=False) == (
        f"training.method is lora, but the study was written for full: {FACT}; try --set training.learning_rate=0.01"
    )
    assert note("quickstart", "training.method=lora", "training.learning_rate=0.02", is_search=False) is None
    assert note("quickstart-lora") is None
    narrow = note("quickstart-lora", "search.training.learning_rate.low=1e-2", "enqueue=[]")
    assert narrow == (
        f"The study searches both values of training.method with learning rates of 0.01 to 0.1: {FACT}; widen the range"
    )


def test_a_final_run_is_told_if_its_trial_trained_with_the_other_method() -> None:
    with_lora = load_settings("quickstart", None, ["training.method=lora"])
    training = with_lora.experiment.training
    assert promoted_note(with_lora, training, "lora") is None
    assert promoted_note(with_lora, training, "full") == (
        f"training.method is lora, but the promoted trial's was full: {FACT}; try --set training.learning_rate=0.01"
    )
    with_rate = load_settings("quickstart", None, ["training.method=lora", "training.learning_rate=0.02"])
    assert promoted_note(with_rate, with_rate.experiment.training, "full") is None


def test_settings_of_a_study_with_the_other_method_get_one_line() -> None:
    loaded = load_settings("quickstart", None, [])
    assert warm_note(loaded, {"training.method": "full"}, "other") is None
    assert warm_note(loaded, {}, "old") is None
    assert warm_note(loaded, {"training.method": "lora"}, "other") == (
        f"--warm-from other: its learning rates were searched with training.method = lora, this study has full: {FACT}"
    )
    searched_both = identity(load_settings("quickstart-lora", None, []))
    assert warm_note(loaded, searched_both, "other") == (
        "--warm-from other: its learning rates were searched with training.method = full and lora, this study has full: "
        f"{FACT}"
    )
    assert warm_note(load_settings("quickstart-lora", None, []), {"training.method": "lora"}, "other") is None
