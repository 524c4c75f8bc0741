"""Trained adapters, and what engines make of them: merged into the weights, and as LoRA requests beside them."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from taught import NUM_POSITIONS, make_model, make_tokenizer, write_experiment

from mathsft.config.load import apply_overrides
from mathsft.config.schema import EvaluationSettings, Experiment
from mathsft.errors import CheckpointError
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from tests.build import make_plan, make_run

ADAPTERS: dict[str, dict[str, Any]] = {
    "A": {"rank": 3},
    "B": {"rank": 8, "rslora": True, "alpha": 8, "targets": "q_proj,v_proj,down_proj"},
    "dora": {"rank": 4, "dora": True},
}
GREEDY = EvaluationSettings(max_tokens=24)
TEXTS = [f"User: what is {n} + {n * n}?" + " Think hard." * (n % 5) for n in range(8)]


def train_adapters(folder: Path, hardware: WorkerDevice) -> tuple[WorkerSettings, dict[str, Checkpoint]]:
    """Return the settings of a study with both methods, and its checkpoints: those of the engine check, and adapters."""
    from tests.training.settled import Trainer

    make_model(folder / "base", 5, tied=True)
    experiment = apply_overrides(
        write_experiment(folder),
        {
            "training.method": "lora",
            "training.lora.rank": 8,
            "training.learning_rate": 3e-2,
            "training.max_length_tokens": NUM_POSITIONS,
        },
    )
    device = replace(hardware, attention="tree")
    settings = WorkerSettings(experiment, device, StudyLayout(folder / "study"), methods=("full", "lora"))
    trainer = Trainer(settings)
    checkpoints = {Path(one.path).name: one for one in trainer.publish_for_check()}
    for name, lora in ADAPTERS.items():
        checkpoints[name] = trainer.advance(adapter_run(name, experiment, lora), 3)
    return settings, checkpoints


def adapter_run(name: str, experiment: Experiment, lora: dict[str, Any]) -> Any:
    overrides = {f"training.lora.{key}": value for key, value in lora.items()}
    return make_run(name, overrides, make_plan(48), experiment=experiment)


def check_adapters(settings: WorkerSettings, checkpoints: dict[str, Checkpoint]) -> dict[str, Any]:
    """Return what the engine says with each adapter in both ways, and both engine checks."""
    from mathsft.evaluation.engine import Engine
    from mathsft.evaluation.evaluator import Evaluator

    layout, tokenizer = settings.layout, make_tokenizer(settings.layout.root / "tokenizer")
    texts_ids = tokenizer(TEXTS)["input_ids"]
    requesting = replace(settings.worker_device, max_request_rank=8)

    def outputs(engine: Any) -> dict[str, Any]:
        return {
            "logprobs": engine.token_logprobs(texts_ids, [1] * len(texts_ids)),
            "texts": [one.text for one in engine.generate(texts_ids, GREEDY)],
        }

    def started(name: str, device: WorkerDevice) -> Any:
        first = checkpoints[name]
        return Engine(layout / first.path, first.fingerprint, device, NUM_POSITIONS, layout.base_weights)

    def swapped(engine: Any, name: str, fingerprint: str = "") -> dict[str, Any]:
        engine.swap(layout / checkpoints[name].path, fingerprint or checkpoints[name].fingerprint)
        assert engine.loaded_fingerprint == (fingerprint or checkpoints[name].fingerprint)
        return outputs(engine)

    report: dict[str, Any] = {"trainer": {name: one.logprob_check.logprobs for name, one in checkpoints.items()}}
    engine = started("A", settings.worker_device)
    report["merged"] = {"A": outputs(engine)}
    report["merged"] |= {name: swapped(engine, name) for name in ("B", "dora", "full-base")}
    report["merged"]["A again"] = swapped(engine, "A")
    engine.close()

    engine = started("A", requesting)
    report["requests"] = {"A": outputs(engine), "B": swapped(engine, "B"), "A again": swapped(engine, "A")}
    report["accepts"] = {name: engine.accepts(layout / one.path) for name, one in checkpoints.items()}
    # Another adapter at the path of the one that is served: vLLM must not serve the old one.
    kept = shutil.move(layout / checkpoints["A"].path, layout.root / "kept")
    shutil.copytree(layout / checkpoints["B"].path, layout / checkpoints["A"].path)
    report["rewritten"] = swapped(engine, "A", checkpoints["B"].fingerprint)
    report["damaged"] = refusal(engine, layout / checkpoints["A"].path)
    report["after a refusal"] = outputs(engine)
    engine.close()
    shutil.rmtree(layout / checkpoints["A"].path)
    shutil.move(kept, layout / checkpoints["A"].path)

    check = [checkpoints[name] for name in ("full-base", "full-changed", "lora-base", "lora-changed")]
    evaluator = Evaluator(settings)
    report["check of both"] = asdict(evaluator.check_engine(*check))
    report["score of merged weights"] = asdict(evaluator.score(checkpoints["A"], settings.experiment, "search", True))
    evaluator._engine.close()
    evaluator = Evaluator(replace(settings, methods=("lora",), worker_device=requesting))
    report["check of requests"] = asdict(evaluator.check_engine(*check[2:]))
    report["score of a request"] = asdict(evaluator.score(checkpoints["A"], settings.experiment, "search", True))
    # A full checkpoint, as of a study's winner, gets an engine of its own.
    report["score of full weights"] = asdict(evaluator.score(check[0], settings.experiment, "search", True))
    evaluator._engine.close()
    return report


def refusal(engine: Any, folder: Path) -> str:
    """Have the engine load a copy of the adapter with a value that is not finite."""
    import torch
    from safetensors.torch import load_file, save_file

    from mathsft.data.weights import ADAPTER_FILE, fingerprint, read_adapter

    copy = folder.with_name("damaged")
    shutil.copytree(folder, copy)
    tensors, base = load_file(copy / ADAPTER_FILE), read_adapter(copy).base_fingerprint
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, copy / ADAPTER_FILE, {"base_fingerprint": base})
    try:
        engine.swap(copy, fingerprint(copy))
    except CheckpointError as error:
        return str(error)
    return "accepted"
