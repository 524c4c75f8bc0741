"""Trains one run at a time up to a requested step; knows nothing of who asks, of scores or of other workers.

The only state is the run it holds in memory: any other request starts from the base weights, so a retry, a replay and a
first request are the same call.
"""

import json
import logging
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import AutoTokenizer

from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment, TrainingSettings
from mathsft.data.examples import Encoded, encode, load_template
from mathsft.data.models import fingerprint
from mathsft.data.pools import load_pools
from mathsft.errors import UserError
from mathsft.records import Checkpoint, Example, Run, StepMetrics, WorkerSettings
from mathsft.training.order import optimizer_batch
from mathsft.training.rows import common_prefix
from mathsft.training.state import load_base, publish
from mathsft.training.step import StepOutcome, TrainingStep

logger = logging.getLogger(__name__)


@dataclass
class _Held:
    """The run whose weights the model holds now, after `step` optimizer steps; changes while it trains."""

    run: Run
    training: TrainingSettings
    num_steps: int
    examples: tuple[Example, ...]
    training_step: TrainingStep
    step: int = 0
    num_tokens: int = 0
    diverged: Checkpoint | None = None


class Trainer:
    """The trainer worker: `advance` any run to any of its steps, `park` to leave the device to others.

    Every run trains settings.experiment.model; all other settings may be overridden by the run.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.hardware.num_threads)
        self._settings = settings
        self._device = torch.device(settings.hardware.device)
        model_folder = Path(settings.experiment.model.path)
        self._base = load_base(model_folder, settings.hardware.attention)
        self._tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
        self._encoded: tuple[object, Encoded] | None = None
        self._held: _Held | None = None

    def advance(self, run: Run, to_step: int) -> Checkpoint:
        """Train the run to the step and publish its weights, or tell at which step it diverged.

        Goes on from the held run where it can, else starts from the base weights; the result is the same. Raises UserError
        if the data cannot be read or the disk is full.
        """
        timings: dict[str, float] = {}
        if self._held is not None:
            self._held.training_step.move_to(self._device)
        if self._held is None or self._held.run != _identity(run) or self._held.step > to_step:
            self._held = None
            self._held = self._start(run, timings)
        held = self._held
        if to_step > held.num_steps:
            raise ValueError(f"run {run.name} has {held.num_steps} steps, but was asked for step {to_step}")
        num_tokens_before = held.num_tokens
        with _timed(timings, "train_seconds"):
            self._train(held, to_step)
        if held.diverged and to_step >= held.diverged.step:
            return held.diverged
        folder = self._run_dir(run) / f"step-{to_step:06d}"
        with _timed(timings, "save_seconds"):
            publish(self._base, held.training_step.weights(), folder)
        timings["num_tokens"] = held.num_tokens - num_tokens_before
        timings["peak_memory_bytes"] = self._peak_memory_bytes()
        path = folder.relative_to(self._settings.study_dir).as_posix()
        return Checkpoint(run.name, to_step, path, fingerprint(folder), timings=timings)

    def park(self) -> None:
        """Move everything to host memory; the next advance moves it back and goes on exactly."""
        if self._held is not None:
            self._held.training_step.move_to(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _train(self, held: _Held, to_step: int) -> None:
        """Take the run's steps up to to_step, one metrics line each, unless it diverges."""
        with self._metrics_path(held.run).open("a", encoding="utf-8") as metrics_file:
            while held.step < to_step and held.diverged is None:
                started = time.perf_counter()
                step = held.step + 1
                batch = optimizer_batch(held.examples, held.training.batch_size, held.run.seed, step)
                outcome = held.training_step.take(batch, step)
                if not outcome.is_finite:
                    held.diverged = _diverged(held, step, outcome)
                    return
                held.step = step
                held.num_tokens += outcome.num_tokens
                metrics = StepMetrics(
                    run=held.run.name,
                    step=step,
                    loss=outcome.loss,
                    learning_rate=outcome.learning_rate,
                    gradient_norm=outcome.gradient_norm,
                    num_tokens=outcome.num_tokens,
                    seconds=time.perf_counter() - started,
                )
                metrics_file.write(json.dumps(asdict(metrics)) + "\n")
                metrics_file.flush()

    def _start(self, run: Run, timings: dict[str, float]) -> _Held:
        """Put the model back to the base weights and make all else that the run's first step needs."""
        experiment = apply_overrides(self._settings.experiment, run.overrides)
        encoded = self._encode(experiment, timings)
        num_steps = run.plan.num_steps(experiment.training.batch_size)
        logger.info(
            "run %s: %d steps from the base weights, %d examples, %d too long and dropped",
            run.name,
            num_steps,
            len(encoded.examples),
            encoded.num_dropped,
        )
        self._run_dir(run).mkdir(parents=True, exist_ok=True)
        self._metrics_path(run).write_text("", encoding="utf-8")
        training_step = TrainingStep(
            self._base, experiment.training, num_steps, self._device, common_prefix(encoded.examples)
        )
        return _Held(_identity(run), experiment.training, num_steps, encoded.examples, training_step)

    def _encode(self, experiment: Experiment, timings: dict[str, float]) -> Encoded:
        """Return the experiment's training examples, those of the last call where the settings are the same."""
        max_length_tokens = experiment.training.max_length_tokens
        key = (experiment.data, experiment.prompt, max_length_tokens)
        if self._encoded is None or self._encoded[0] != key:
            with _timed(timings, "encode_seconds"):
                problems = load_pools(experiment.data)["train"]
                template = load_template(experiment.prompt.template)
                encoded = encode(problems, self._tokenizer, template, max_length_tokens)
            if not encoded.examples:
                raise UserError(
                    f"data.source: {experiment.data.source} leaves no problem to train on; give it more problems"
                )
            self._encoded = key, encoded
        return self._encoded[1]

    def _peak_memory_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _run_dir(self, run: Run) -> Path:
        return self._settings.study_dir / "runs" / run.name

    def _metrics_path(self, run: Run) -> Path:
        return self._run_dir(run) / "metrics.jsonl"


def _identity(run: Run) -> Run:
    """Return the run without how it is going: what decides its weights, and its name."""
    return replace(run, state="running", value=None, reason="")


def _diverged(held: _Held, step: int, outcome: StepOutcome) -> Checkpoint:
    what = f"gradient norm is {outcome.gradient_norm}" if math.isfinite(outcome.loss) else f"loss is {outcome.loss}"
    reason = f"{what} at step {step} (learning rate {held.training.learning_rate:g})"
    return Checkpoint(held.run.name, step, path="", fingerprint="", diverged=reason)


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started
