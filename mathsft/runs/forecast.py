"""What a study will cost, before it costs anything: time, disk and memory. A rough prediction until trials were measured."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mathsft.config.schema import Experiment, FinalSettings, StudyConfig
from mathsft.data.examples import load_template, render_prompt
from mathsft.records import Hardware, Problem
from mathsft.store.book import Book
from mathsft.training.footprint import KEEP_STATES, full_state_bytes, held_bytes

START_SECONDS = 25.0
"""Starting the workers and one engine, as measured on a two-core machine."""
STEP_SECONDS = 0.02
"""What one optimizer or decoding step costs beyond its arithmetic, as measured with a tiny model."""
TRAINER_PROCESS_BYTES, EVALUATOR_PROCESS_BYTES = 2**30, 9 * 2**28
"""What the processes hold beside the model on a CPU, as measured with a tiny one: libraries and small tensors, and in the
evaluator the KV cache and the processes that grade. A large model's activations are not in it."""
CHARACTERS_PER_TOKEN = 2.5
ASSUMED_CUDA_FLOPS = 1e14
TRAINING_EFFICIENCY = 0.4


@dataclass(frozen=True)
class FinalDisk:
    """Predicted bytes on disk of a final run, its full states included while it goes on."""

    most_bytes: int
    """While it goes on, should scoring fall so far behind that no checkpoint can be deleted before the last is written."""
    kept_bytes: int
    """When it is over."""
    num_kept: int
    """Checkpoints whose weights stay: the last, every keep_every-th, and the best as if it were another one."""


@dataclass(frozen=True)
class Forecast:
    """Predicted cost of the trials that are left and disk of the final run; basis says what the time rests on."""

    seconds: float
    disk_bytes: int
    final_disk: FinalDisk
    trainer_memory_bytes: int
    evaluator_memory_bytes: int
    num_parameters: int
    basis: str


def forecast(
    config: StudyConfig,
    experiment: Experiment,
    model_folder: Path,
    hardware: Hardware,
    pools: Mapping[str, Sequence[Problem]],
    book: Book | None,
    num_trainers: int,
) -> Forecast:
    """Predict from the trials in the book, else from the model's size and the speed of a matrix product here."""
    num_parameters, weight_bytes = model_size(model_folder)
    measured = measured_trial_seconds(book) if book else []
    num_left = max(0, config.num_trials - len(measured))
    if measured:
        per_trial, basis = statistics.median(measured), f"the median of {len(measured)} trials"
    else:
        per_trial = _arithmetic_seconds(config, experiment, num_parameters, hardware, pools)
        basis = "the model's size and the speed of a matrix product here"
    engine_bytes = num_parameters * (4 if hardware.engine_dtype == "float32" else 2)
    return Forecast(
        seconds=START_SECONDS + num_left * per_trial if num_left else 0.0,
        disk_bytes=weight_bytes * (config.num_trials + 2)
        + num_trainers * (KEEP_STATES + 1) * full_state_bytes(num_parameters),
        final_disk=final_disk(config.final, num_parameters, weight_bytes),
        trainer_memory_bytes=held_bytes(num_parameters, experiment.training.precision) + weight_bytes,
        evaluator_memory_bytes=engine_bytes,
        num_parameters=num_parameters,
        basis=basis,
    )


def final_disk(settings: FinalSettings, num_parameters: int, weight_bytes: int) -> FinalDisk:
    """Predict what a final run of a model with weights of so many bytes takes on disk."""
    num_trained = sum(point > 0 for point in settings.eval_points)
    every = settings.keep_every or num_trained
    named = {num_trained, *range(every, num_trained + 1, every)}
    num_kept = min(num_trained, len(named) + 1)  # and the best one
    return FinalDisk(
        most_bytes=weight_bytes * (num_trained + 1) + (KEEP_STATES + 1) * full_state_bytes(num_parameters),
        kept_bytes=weight_bytes * num_kept,
        num_kept=num_kept,
    )


def is_memory_short(experiment: Experiment, model_folder: Path, free_bytes: int) -> bool:
    """Tell whether so much memory is less than what a trainer and an evaluator on a CPU are predicted to take together."""
    num_parameters, weight_bytes = model_size(model_folder)
    trainer = TRAINER_PROCESS_BYTES + held_bytes(num_parameters, experiment.training.precision) + weight_bytes
    evaluator = EVALUATOR_PROCESS_BYTES + num_parameters * (2 if experiment.evaluation.precision == "bf16" else 4)
    return free_bytes < trainer + evaluator


def model_size(folder: Path) -> tuple[int, int]:
    """Return a model's parameters and its weights' bytes, from the safetensors headers alone."""
    num_parameters = num_bytes = 0
    for path in folder.glob("*.safetensors"):
        num_bytes += path.stat().st_size
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        num_parameters += sum(int(np.prod(shape)) for shape in shapes)
    return num_parameters, num_bytes


def measured_trial_seconds(book: Book) -> list[float]:
    """Return what each finished trial took: the longer of training and scoring, which overlap."""
    seconds = []
    for run in book.runs("trial-"):
        if run.state == "finished":
            train = sum(sum(_seconds(checkpoint.timings)) for checkpoint in book.checkpoints(run.name))
            score = sum(sum(_seconds(score.timings)) for score in book.scores(run.name, run.plan.pool))
            seconds.append(max(train, score))
    return seconds


def _seconds(timings: Mapping[str, float]) -> list[float]:
    return [value for name, value in timings.items() if name.endswith("_seconds") and name != "start_seconds"]


def _arithmetic_seconds(
    config: StudyConfig,
    experiment: Experiment,
    num_parameters: int,
    hardware: Hardware,
    pools: Mapping[str, Sequence[Problem]],
) -> float:
    """Return the seconds of one trial: 6 FLOPs a parameter and trained token, 2 a generated one, and a cost per step."""
    template = load_template(experiment.prompt.template)
    characters = [
        len(render_prompt(template, problem.problem)) + len(problem.solution) + len(problem.answer)
        for problem in pools["train"][:500]
    ]
    tokens = config.trial.num_examples * statistics.mean(characters) / CHARACTERS_PER_TOKEN
    steps = config.trial.num_examples / experiment.training.batch_size
    rate = ASSUMED_CUDA_FLOPS if hardware.device == "cuda" else measured_flops()
    train = 6 * num_parameters * tokens / (rate * TRAINING_EFFICIENCY) + steps * STEP_SECONDS
    generated = len(pools["search"]) * experiment.evaluation.num_samples * experiment.evaluation.max_tokens
    score = 2 * num_parameters * generated / (rate * TRAINING_EFFICIENCY) + experiment.evaluation.max_tokens * STEP_SECONDS
    return max(train, score * len(config.trial.eval_points))


def measured_flops(size: int = 512, num_repeats: int = 20) -> float:
    """Return the fp32 FLOPs a second of a square matrix product on this machine."""
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    seconds = []
    for _ in range(num_repeats):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))
