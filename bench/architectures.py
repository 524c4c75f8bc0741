"""Checks the engine on tiny random models of many architectures, with the check that a study makes before its first trial.

`python -m bench.architectures` prints an outcome for each model: "fine" (vLLM and the trainer compute the same log
probabilities, also after swaps of weights), "another function" (they differ), "keeps old weights" (vLLM does after a swap;
then a new engine for every checkpoint is tried, too), "refused" or "failed". The last line is JSON with the number of models
per outcome. The workers are real; a model takes about half a minute on one core.
"""

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from bench.processes import start_bench
from mathsft.commands.common import run_to_end
from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import LimitSettings
from mathsft.data.model_check import check_model
from mathsft.data.models import resolve_model
from mathsft.errors import StudyFailedError, UserError
from mathsft.layout import ENGINE_CHECK, StudyLayout
from mathsft.records import EngineCheck
from mathsft.runs.context import StudyContext
from mathsft.runs.engine_check import check_engine
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import Notification, StudyStore
from mathsft.workers.machine import detect_machine
from mathsft.workers.placement import place

WIDTH, NUM_LAYERS, NUM_HEADS, NUM_POSITIONS = 64, 2, 2, 512
SPREAD = 0.3
"""Standard deviation of the random weights. With transformers' default, 0.02, all tokens are almost equally likely, and a
fault would not be visible."""

Outcome = Literal["fine", "another function", "keeps old weights", "refused", "failed"]
COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": 1,
    "max_position_embeddings": NUM_POSITIONS,
    "initializer_range": SPREAD,
}
GPT2 = {
    "n_embd": WIDTH,
    "n_layer": NUM_LAYERS,
    "n_head": NUM_HEADS,
    "n_positions": NUM_POSITIONS,
    "initializer_range": SPREAD,
}


@dataclass(frozen=True)
class Architecture:
    """A model class as transformers names it, its configuration, and a change that is made to its folder."""

    name: str
    settings: dict[str, Any]
    change: Callable[[Path], None] = lambda folder: None


def _with_stray_buffer(folder: Path) -> None:
    """Add a tensor that old versions of transformers wrote and that no model reads."""
    import torch

    _rewrite(folder, lambda tensors: {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(WIDTH // 4)})


def _in_hub_layout(folder: Path) -> None:
    """Name GPT-2's tensors as on the hub: without a prefix, and with the attention mask as a buffer."""
    import torch

    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        return {**renamed, "h.0.attn.bias": torch.ones(1, 1, NUM_POSITIONS, NUM_POSITIONS).tril()}

    _rewrite(folder, change)


def _sharded_beside_consolidated(folder: Path) -> None:
    """Write shards with an index, and a second copy of all weights under other names, as Mistral does."""
    from transformers import AutoModelForCausalLM

    consolidated = folder / "consolidated.safetensors"
    shutil.copyfile(folder / "model.safetensors", consolidated)
    _rewrite(folder, lambda tensors: {f"layers.{name}": tensor for name, tensor in tensors.items()}, consolidated)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], path: Path | None = None) -> None:
    from safetensors.torch import load_file, save_file

    path = path or folder / "model.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path, metadata={"format": "pt"}
    )


EXPERTS = {"num_experts_per_tok": 2}
ARCHITECTURES = {
    "Llama": Architecture("Llama", COMMON),
    "Llama, stray rotary_emb.inv_freq": Architecture("Llama", COMMON, _with_stray_buffer),
    "Llama, shards beside consolidated": Architecture("Llama", COMMON, _sharded_beside_consolidated),
    "Qwen2": Architecture("Qwen2", COMMON),
    "Qwen2, tied": Architecture("Qwen2", {**COMMON, "tie_word_embeddings": True}),
    "Qwen3": Architecture("Qwen3", {**COMMON, "head_dim": 32}),
    "SmolLM3": Architecture("SmolLM3", {**COMMON, "pad_token_id": 0}),
    "OLMo 2": Architecture("Olmo2", COMMON),
    "Gemma 3": Architecture("Gemma3Text", {**COMMON, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "Phi-3": Architecture("Phi3", {**COMMON, "pad_token_id": 0}),
    "GPT-2": Architecture("GPT2", GPT2),
    "GPT-2, hub layout": Architecture("GPT2", GPT2, _in_hub_layout),
    "GPT-NeoX": Architecture("GPTNeoX", COMMON),
    "Mixtral": Architecture("Mixtral", {**COMMON, **EXPERTS, "num_local_experts": 4}),
    "Qwen3-MoE": Architecture(
        "Qwen3Moe", {**COMMON, **EXPERTS, "head_dim": 32, "num_experts": 4, "moe_intermediate_size": WIDTH}
    ),
    "Granite": Architecture("Granite", {**COMMON, "logits_scaling": 8.0}),
    "Falcon": Architecture("Falcon", {**COMMON, "new_decoder_architecture": True, "num_kv_heads": 1}),
}


@dataclass(frozen=True)
class Checked:
    """The outcome of one check."""

    outcome: Outcome
    detail: str


def make_model(architecture: Architecture, folder: Path) -> None:
    """Write a model with random weights and the quickstart's tokenizer."""
    import torch
    import transformers
    from transformers import AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("quickstart"), local_files_only=True)
    tokenizer.save_pretrained(folder)
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = getattr(transformers, f"{architecture.name}Config")(
        vocab_size=len(tokenizer), **{**special, **architecture.settings}
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    architecture.change(folder)


def checked(model_folder: Path, study_dir: Path, load: str) -> Checked:
    """Return the outcome of an engine check with real workers; load is the setting evaluation.load."""
    machine = detect_machine()
    experiment = Experiment.model_validate(
        {
            "model": {"path": str(model_folder)},
            "data": {
                "source": "quickstart",
                "pools": {"train": 100, "search": 20, "confirm": 20, "validation": 20, "test": 20},
            },
            "prompt": {"template": "short"},
            "training": {"learning_rate": 1e-3, "batch_size": 16, "max_length_tokens": 256},
            "evaluation": {"max_tokens": 64},
        }
    )
    experiment = apply_overrides(experiment, {"training.precision": machine.auto_precision, "evaluation.load": load})
    layout = StudyLayout(study_dir)
    study_dir.mkdir()
    store, observer = StudyStore.open(layout.database_url, ENGINE_CHECK), _CheckObserver()
    store.observers.append(observer)
    placement = place(machine, experiment, layout, "study")
    try:
        check_model(model_folder, experiment, (), on_cpu=not machine.cuda)
        with StudyWorkers.started(placement, LimitSettings()) as workers:
            run_to_end(check_engine(StudyContext(store, workers, layout, experiment)))
    except UserError as error:
        return Checked(_outcome(str(error)), str(error))
    except StudyFailedError as error:
        return Checked("failed", str(error))
    finally:
        store.close()
    [check] = observer.checks
    return Checked("fine", f"within {check.nats:.1g} nats per token, {check.seconds:.1f} s")


class _CheckObserver:
    """A store observer that collects the engine checks."""

    def __init__(self) -> None:
        self.checks: list[EngineCheck] = []

    def notify(self, record: Notification) -> None:
        if isinstance(record, EngineCheck):
            self.checks.append(record)


def _outcome(message: str) -> Outcome:
    if "computes another function" in message:
        return "another function"
    return "keeps old weights" if "evaluation.load to new_engine" in message else "refused"


def table(results: dict[str, dict[str, Checked]]) -> Table:
    """Return the outcomes as a table, a row per architecture; results are by architecture and evaluation.load."""
    shown = Table(box=box.SIMPLE, title="Engine checks of tiny random models", title_justify="left")
    for name in ("architecture", "with swaps", "a new engine for every checkpoint"):
        shown.add_column(name)
    for name, checks in results.items():
        other = checks.get("new_engine")
        shown.add_row(name, checks["swap"].outcome, other.outcome if other else "")
    return shown


def main() -> None:
    """Check each architecture and print the outcomes."""
    parser = argparse.ArgumentParser(prog="python -m bench.architectures", description="Which models vLLM serves correctly.")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, metavar="NAME", help="architectures (default: all)")
    names = parser.parse_args().only or list(ARCHITECTURES)
    start_bench()
    console = Console(highlight=False, soft_wrap=True)
    results: dict[str, dict[str, Checked]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            make_model(ARCHITECTURES[name], folder)
            results[name] = {"swap": checked(folder, Path(scratch) / "swap", "swap")}
            if results[name]["swap"].outcome == "keeps old weights":
                results[name]["new_engine"] = checked(folder, Path(scratch) / "new_engine", "new_engine")
        for load, check in results[name].items():
            console.print(f"{name}, {load}: {check.outcome}: {check.detail}")
    console.print(table(results))
    counts = Counter(checks["swap"].outcome for checks in results.values())
    print(json.dumps({outcome.replace(" ", "_"): counts[outcome] for outcome in sorted(counts)}), flush=True)


if __name__ == "__main__":
    main()
