"""The parts of bench.device that need vLLM: one engine alone, and trainer and engine on one device, in turns or at once."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.device_part import Clock, Context, Figures, rounded

NUM_CYCLES = {False: 3, True: 1}
"""By whether it is a smoke run: on a CPU an engine that gives its turn away ends, and the next one takes 15 seconds."""
NO_VLLM = {"skipped": "vLLM is not installed"}


# ---- one engine


def engine(context: Context) -> Iterator[Figures]:
    """Start an engine, swap its weights, generate with and without the entropy tap, and let it sleep and wake."""
    if find_spec("vllm") is None:
        yield NO_VLLM
        return
    from vllm import SamplingParams

    from mathsft.config.schema import EvaluationSettings
    from mathsft.data.weights import fingerprint
    from mathsft.evaluation.engine import Engine
    from mathsft.worker_settings import WorkerDevice

    is_cuda, clock = context.device == "cuda", Clock(context.device)
    num_texts, num_tokens = (8, 16) if context.is_smoke else (200, 256)
    folders = {name: fingerprint(name) for name in (context.model_folder, _changed(context))}
    dtype: Any = _engine_dtype(context)
    worker_device = WorkerDevice(context.device, 1, "sdpa", dtype, 0.8, sleep_mode=is_cuda)
    base, changed = folders
    started = time.perf_counter()
    llm = Engine(base, folders[base], worker_device, 128 + num_tokens)
    yield {"step": "start", "seconds": rounded(time.perf_counter() - started), "peak_gb": _gb(llm.peak_memory_bytes())}

    swaps = [clock.seconds(lambda folder=folder: llm.swap(folder, folders[folder])) for folder in (changed, base, changed)]
    yield {"step": "swap", "seconds": rounded(statistics.median(swaps))}

    generator = random.Random(0)
    prompts_ids = [[generator.randrange(1, 250) for _ in range(100)] for _ in range(num_texts)]
    settings = EvaluationSettings(max_tokens=num_tokens)
    bare = [SamplingParams(temperature=0, max_tokens=num_tokens) for _ in prompts_ids]
    rates: dict[str, list[float]] = {"with": [], "without": []}
    llm.generate(prompts_ids, settings)  # the first call compiles and captures what is left
    for kind in ("with", "without", "without", "with"):
        llm._llm.reset_prefix_cache()
        counts: list[int] = []

        def generate(kind: str = kind, counts: list[int] = counts) -> None:
            if kind == "with":
                counts.extend(each.num_tokens for each in llm.generate(prompts_ids, settings))
            else:  # requests without a row are not measured by the tap
                outputs = llm._run(prompts_ids, [parameters.clone() for parameters in bare])
                counts.extend(len(output.outputs[0].token_ids) for output in outputs)

        seconds = clock.seconds(generate)
        rates[kind].append(sum(counts) / seconds)
    with_tap, without = (statistics.median(rates[kind]) for kind in ("with", "without"))
    yield {
        "step": "generate",
        "tokens_per_second": rounded(with_tap),
        "without_tap": rounded(without),
        "tap_cost": rounded(without / with_tap - 1),
    }
    if is_cuda:
        yield from _sleeps(llm, folders, clock)
    llm.close()


def _sleeps(llm: Any, folders: dict[Path, str], clock: Clock) -> Iterator[Figures]:
    import torch

    for _ in range(3):
        free_before = torch.cuda.mem_get_info()[0]
        sleep_seconds = clock.seconds(llm.sleep)
        freed = torch.cuda.mem_get_info()[0] - free_before
        folder = next(iter(folders))
        wake_seconds = clock.seconds(lambda folder=folder: llm.swap(folder, folders[folder]))
        yield {
            "step": "sleep",
            "seconds": rounded(sleep_seconds),
            "freed_gb": _gb(freed),
            "wake_seconds": rounded(wake_seconds),
        }


def _changed(context: Context) -> Path:
    """Write a copy of the model with slightly larger weights, and return its folder."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(context.model_folder, context.scratch / "changed"))
    for file in folder.glob("*.safetensors"):
        save_file({name: tensor * 1.02 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return folder


def _engine_dtype(context: Context) -> str:
    from mathsft.config.schema import EvaluationSettings
    from mathsft.workers.machine import detect_machine
    from mathsft.workers.placement import engine_dtype

    return "float32" if context.device == "cpu" else engine_dtype(EvaluationSettings(), detect_machine())


# ---- trainer and engine on one device


def turns(context: Context) -> Iterator[Figures]:
    """Train, park the trainer, wake the engine, score, let it sleep, return to training: with mathsft's own workers."""
    yield from _workers(context, "turns")


def resident(context: Context) -> Iterator[Figures]:
    """Train and score at the same time on one device, if placement finds that both fit."""
    yield from _workers(context, "resident")


def _workers(context: Context, kind: str) -> Iterator[Figures]:
    if find_spec("vllm") is None:
        yield NO_VLLM
        return
    from mathsft.accounting.forecast import model_size
    from mathsft.errors import UserError
    from mathsft.layout import StudyLayout
    from mathsft.workers.machine import detect_machine
    from mathsft.workers.placement import place

    machine, experiment = detect_machine(), _experiment(context)
    machine = replace(machine, cuda=machine.cuda[:1] if context.device == "cuda" else (), refused_devices=())
    if context.device == "cuda" and not machine.cuda:
        raise UserError("NVML reports no CUDA device: is nvidia-ml-py installed?")
    if context.device == "cpu" and kind == "resident":
        yield {"skipped": "on a CPU trainer and engine share no device"}
        return
    layout = StudyLayout(context.scratch / kind)
    model = model_size(context.model_folder) if kind == "resident" else None  # of an unknown size none is resident
    placement = place(machine, experiment, layout, "study", model=model, memory_is_short=kind == "turns")
    if kind == "resident" and placement.trainers[0].device == placement.evaluators[0].device:
        yield {"skipped": f"not both fit: {placement.description}"}
        return
    cycles = _cycles(placement, experiment, layout, NUM_CYCLES[context.is_smoke], at_once=kind == "resident")
    with asyncio.Runner() as runner, suppress(StopAsyncIteration):
        while True:
            yield runner.run(anext(cycles))
    losses, others = _losses(layout), _losses(StudyLayout(context.scratch / "turns"))
    yield {"losses": losses, **({"same_losses_as_in_turns": losses == others} if kind == "resident" and others else {})}


async def _cycles(placement: Any, experiment: Any, layout: Any, num_cycles: int, *, at_once: bool) -> AsyncIterator[Figures]:
    """Advance a run to each checkpoint and score it; at once, advance to the next one while the last one is scored."""
    from mathsft.config.study_schema import LimitSettings
    from mathsft.publication import heard
    from mathsft.records import Checkpoint, Plan, Score
    from mathsft.runs.new_run import new_run
    from mathsft.runs.publishing import POLL_SECONDS
    from mathsft.runs.worker_pool import StudyWorkers

    batch_size, steps_per_cycle = experiment.training.batch_size, 2
    plan = Plan((num_cycles + 1) * steps_per_cycle * batch_size, (1.0,), "search", max_unscored=1, keep="last")
    run = new_run("trial", "trial-0", experiment=experiment, overrides={}, plan=plan, seed=0)
    with StudyWorkers.started(placement, LimitSettings()) as workers:

        async def advance(cycle: int) -> tuple[Checkpoint, float]:
            async with workers.trainers.lease() as trainer:
                started = time.perf_counter()
                checkpoint = await trainer.call("advance", run, cycle * steps_per_cycle)
                while (publication := heard(layout.publication(run.name, checkpoint.step))) is None:
                    await asyncio.sleep(POLL_SECONDS)
                complete = replace(checkpoint, fingerprint=publication.fingerprint, stamps=publication.stamps)
                return complete, time.perf_counter() - started

        async def score(checkpoint: Checkpoint) -> tuple[Score, float]:
            async with workers.evaluators.lease() as evaluator:
                started = time.perf_counter()
                scored = await evaluator.call("score", checkpoint, experiment, "search", False)
                return scored, time.perf_counter() - started

        checkpoint, advance_seconds = await advance(1)
        for cycle in range(1, num_cycles + 1):
            if at_once:
                (scored, score_seconds), (after, seconds) = await asyncio.gather(score(checkpoint), advance(cycle + 1))
            else:
                scored, score_seconds = await score(checkpoint)
                after, seconds = await advance(cycle + 1)
            generate_seconds = scored.costs.generate_seconds
            yield {
                "cycle": cycle,
                "advance_seconds": rounded(advance_seconds),
                "train_seconds": rounded(checkpoint.costs.train_seconds),
                "trainer_peak_gb": _gb(checkpoint.costs.peak_memory_bytes),
                "score_seconds": rounded(score_seconds),
                "swap_seconds": rounded(scored.costs.start_seconds + scored.costs.swap_seconds),
                "tokens_per_second": rounded(scored.costs.num_response_tokens / generate_seconds)
                if generate_seconds
                else None,
                "engine_peak_gb": _gb(scored.costs.peak_memory_bytes),
            }
            checkpoint, advance_seconds = after, seconds


def _experiment(context: Context) -> Any:
    from mathsft.config.schema import Experiment
    from mathsft.workers.machine import detect_machine

    problems = 8 if context.is_smoke else 200
    pools = {"train": 256, "search": problems, "confirm": 1, "validation": 1, "test": 1}
    precision = "fp32" if context.device == "cpu" else detect_machine().auto_precision
    return Experiment.model_validate(
        {
            "model": {"path": str(context.model_folder)},
            "data": {"source": "quickstart", "pools": pools},
            "prompt": {"template": "short"},
            "training": {"learning_rate": 1e-5, "batch_size": 16, "precision": precision, "max_length_tokens": 512},
            "evaluation": {"max_tokens": 16 if context.is_smoke else 128},
        }
    )


def _losses(layout: Any) -> list[float]:
    import json

    path = layout.metrics("trial-0")
    return [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _gb(num_bytes: int) -> float:
    return rounded(num_bytes / 1e9)
