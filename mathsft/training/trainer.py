"""Trains one run at a time up to a requested step; knows nothing of who asks, of scores or of other workers.

A request goes on from the run held in memory, else from its full state on disk, else from the base weights, and the result
is the same: a retry, a replay and a first request are one call. Where several ranks train, all are asked for the same, and
the first alone reads and writes the run's files.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from mathsft.config.schema import Experiment, TrainingSettings
from mathsft.costs import Clock, Memory, TrainingCosts
from mathsft.data.encoded_cache import content_key, encode_cached
from mathsft.data.examples import Encoded, check_ids, load_template
from mathsft.data.models import fingerprint
from mathsft.data.pools import load_pools
from mathsft.errors import UserError, told_if_disk_full
from mathsft.records import ENGINE_CHECK, Checkpoint, Diverged, Example, LogprobCheck, Run, StepMetrics
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.batching.order import optimizer_batch
from mathsft.training.cpu.memory import peak_resident_bytes, resident_bytes
from mathsft.training.footprint import full_state_bytes
from mathsft.training.full_state import FullState, SavePace, discard_full_state, load_full_state, save_full_state
from mathsft.training.logprob_check import changed_copy, check_token_ids, make_logprob_check
from mathsft.training.meter.peak_memory import predicted_peak
from mathsft.training.meter.utilization import Utilization
from mathsft.training.rank_group import join_ranks
from mathsft.training.state import load_base, publish, rounded
from mathsft.training.step import StepOutcome, TrainingStep
from mathsft.worker_settings import WorkerSettings

logger = logging.getLogger(__name__)


@dataclass
class _Held:
    """The run whose weights the model holds now, after `step` optimizer steps; changes while it trains."""

    run: Run
    training: TrainingSettings
    num_steps: int
    examples: tuple[Example, ...]
    training_step: TrainingStep
    identity: str
    """Hash of all that decides the run's weights."""
    predicted_memory: Memory | None
    """At its peak; None for a model whose memory is not known, and for ranks."""
    step: int = 0
    num_tokens: int = 0
    diverged: Diverged | None = None


class Trainer:
    """The trainer worker: `advance` any run to any of its steps, `park` to leave the device to others.

    Every run trains the model that lies at settings.experiment.model.path; all else is in the run's own experiment.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.hardware.num_threads)
        self._settings, self._layout = settings, settings.layout
        self._device = torch.device(settings.hardware.device)
        self._ranks = join_ranks(self._device)
        model_folder = Path(settings.experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
        self._engine_dtype: torch.dtype = getattr(torch, settings.hardware.engine_dtype)
        self._resident_bytes_before = resident_bytes()
        self._base = load_base(model_folder, settings.hardware.attention)
        self._utilization = Utilization(self._base.model, self._device, self._ranks.size)
        self._encoded: tuple[object, str, Encoded] | None = None
        self._held: _Held | None = None
        self._base_fingerprint = fingerprint(model_folder)
        self._save_pace = SavePace(full_state_bytes(sum(weight.numel() for weight in self._base.weights.values())))
        self._fitting_tokens: int | None = None
        self._state_path: Path | None = None
        """The one full state of this trainer, of whichever run."""

    def advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        """Train the run to the step and publish its weights, or tell at which step it diverged; only rank 0 answers.

        Goes on from the held run where it can, else from its full state on disk, else from the base weights; the result is
        the same. Raises UserError if the data cannot be read or the disk is full, TooLittleMemoryError if an
        example needs more memory than there is.
        """
        with told_if_disk_full(self._layout.run(run.name), "space for the run's metrics and checkpoints"):
            return self._advance(run, to_step)

    def _advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        clock = Clock()
        if self._held is not None:
            self._held.training_step.move_to(self._device)
        held = self._held_for(run, to_step)
        if held is None:
            self._held = None
            held = self._held = self._start(run, to_step, clock)
        if to_step > held.num_steps:
            raise ValueError(f"run {run.name} has {held.num_steps} steps, but was asked for step {to_step}")
        num_tokens_before = held.num_tokens
        with clock.during("train_seconds"):
            self._train(held, to_step)
        if held.diverged and to_step >= held.diverged.step:
            return held.diverged
        weights = self._ranks.whole(held.training_step.weights())
        published = rounded(self._base, weights) if self._ranks.is_first else {}
        logprob_check = self._logprob_check(held, published, clock) if self._ranks.is_first else None
        if not self._ranks.agree(logprob_check is None or all(map(math.isfinite, logprob_check.logprobs))):
            held.diverged = _diverged(held, to_step, "what the weights predict is not finite")
            return held.diverged
        folder = self._layout.checkpoint(run.name, to_step)
        path = self._layout.recorded(folder)
        if logprob_check is None:
            return None  # rank 0 answers
        with clock.during("save_seconds"):
            publish(self._base, published, folder)
        costs = TrainingCosts(
            **clock.seconds,
            num_tokens=held.num_tokens - num_tokens_before,
            num_ranks=self._ranks.size,
            peak_memory_bytes=self._peak_memory_bytes(),
            predicted_memory=held.predicted_memory,
        )
        return Checkpoint(run.name, to_step, path, fingerprint(folder), logprob_check, costs)

    def publish_for_check(self) -> tuple[Checkpoint, ...]:
        """Publish the base weights and changed ones, with what both predict: what an engine can be checked by.

        RankGroup other than 0 return nothing.
        """
        if not self._ranks.is_first:
            return ()
        _, encoded = self._encode(self._settings.experiment, Clock())
        token_ids, model = check_token_ids(encoded.examples), self._base.model
        device = self._device if self._ranks.size == 1 else torch.device("cpu")
        weights = {"base": self._base.weights, "changed": changed_copy(self._base.weights, seed=0)}
        published = []
        model.to(device)
        for name, tensors in weights.items():
            folder = self._layout.engine_check(name)
            logprob_check = make_logprob_check(model, tensors, token_ids, self._engine_dtype, device)
            publish(self._base, tensors, folder)
            path = self._layout.recorded(folder)
            published.append(Checkpoint(ENGINE_CHECK, 0, path, fingerprint(folder), logprob_check))
        model.to("cpu")
        self.park()
        return tuple(published)

    def park(self) -> None:
        """Move everything to host memory; the next advance moves it back and goes on exactly."""
        if self._held is not None:
            self._held.training_step.move_to(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _train(self, held: _Held, to_step: int) -> None:
        """Take the run's steps up to to_step, one metrics line each, unless it diverges."""
        with self._layout.metrics(held.run.name).open("a", encoding="utf-8") as metrics_file:
            while held.step < to_step and held.diverged is None:
                started = time.perf_counter()
                step = held.step + 1
                batch = optimizer_batch(held.examples, held.training.batch_size, held.run.seed, step)
                outcome = held.training_step.take(batch, step)
                if not outcome.is_finite:
                    held.diverged = _diverged(held, step, _what_is_not_finite(outcome))
                    return
                self._fitting_tokens = held.training_step.fitting_tokens
                held.step = step
                held.num_tokens += outcome.num_tokens
                seconds = time.perf_counter() - started
                if self._ranks.is_first:
                    metrics_file.write(self._metrics_line(held, outcome, seconds))
                    metrics_file.flush()
                if self._ranks.agree(self._save_pace.is_due(seconds)):
                    self._save_state(held)

    def _metrics_line(self, held: _Held, outcome: StepOutcome, seconds: float) -> str:
        metrics = StepMetrics(
            run=held.run.name,
            step=held.step,
            loss=outcome.loss,
            learning_rate=outcome.learning_rate,
            gradient_norm=outcome.gradient_norm,
            num_tokens=outcome.num_tokens,
            num_computed_tokens=outcome.num_computed_tokens,
            seconds=seconds,
            flop_utilization=self._utilization.share(outcome, held.training.precision, seconds),
        )
        return json.dumps(asdict(metrics)) + "\n"

    def _logprob_check(self, held: _Held, published: Mapping[str, Tensor], clock: Clock) -> LogprobCheck:
        """Return what the published weights make of the run's first examples."""
        # RankGroup keep their devices for their shares: the whole model lies, and computes, on the host.
        device = self._device if self._ranks.size == 1 else torch.device("cpu")
        with clock.during("check_seconds"):
            return make_logprob_check(
                self._base.model, published, check_token_ids(held.examples), self._engine_dtype, device
            )

    def _held_for(self, run: Run, to_step: int) -> _Held | None:
        """Return the held run if it can go on to the step and its metrics are still those of its own steps, cut to these."""
        held = self._held
        if held is None or held.run != _identity(run) or held.step > to_step:
            return None
        # Another trainer may have taken the run further meanwhile.
        is_its_own = self._ranks.is_first and _cut_metrics(self._layout.metrics(run.name), held.step)
        return held if self._ranks.agree(is_its_own) else None

    def _start(self, run: Run, to_step: int, clock: Clock) -> _Held:
        """Put the model to the base weights or to the run's full state, and make all else that its next step needs."""
        training, num_steps = run.experiment.training, run.num_steps
        examples_key, encoded = self._encode(run.experiment, clock)
        identity = _hash_of(run.seed, num_steps, training.model_dump(), self._base_fingerprint, examples_key)
        self._layout.run(run.name).mkdir(parents=True, exist_ok=True)
        training_step = TrainingStep(
            self._base,
            training,
            num_steps,
            self._device,
            common_prefix(encoded.examples),
            self._ranks,
            self._fitting_tokens,
        )
        predicted = None
        if self._ranks.size == 1:
            row = training_step.largest_row(encoded.examples)
            predicted = predicted_peak(self._base, training, row, self._device)
        held = _Held(_identity(run), training, num_steps, encoded.examples, training_step, identity, predicted)
        self._resume(held, to_step)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        logger.info(
            "run %s: %d steps from %s, %d examples, %d too long and dropped",
            run.name,
            num_steps,
            f"step {held.step}" if held.step else "the base weights",
            len(encoded.examples),
            encoded.num_dropped,
        )
        return held

    def _resume(self, held: _Held, to_step: int) -> None:
        """Go to the run's full state on disk and cut its metrics to that step; to step 0 where there is none to believe."""
        state = self._state_on_disk(held, to_step) if self._ranks.is_first else None
        held.step = self._ranks.agree(state.step if state else 0)
        held.num_tokens = self._ranks.agree(state.num_tokens if state else 0)
        if held.step:
            held.training_step.load_tensors(state.tensors if state else {})
            self._state_path = self._layout.full_state(held.run.name)

    def _state_on_disk(self, held: _Held, to_step: int) -> FullState | None:
        """Return the run's full state and cut its metrics to that step; where there is none to believe, empty them."""
        path, metrics_path = self._layout.full_state(held.run.name), self._layout.metrics(held.run.name)
        state = load_full_state(path, held.identity, to_step, like=held.training_step.tensors())
        if state is None or not _cut_metrics(metrics_path, state.step):
            # First of all: a state never outlives the metrics that led to it.
            discard_full_state(path)
            metrics_path.write_text("", encoding="utf-8")
            return None
        return state

    def _save_state(self, held: _Held) -> None:
        """Save the run's full state, then delete the one of another run that this trainer saved before."""
        started = time.perf_counter()
        path = self._layout.full_state(held.run.name)
        tensors = self._ranks.whole(held.training_step.tensors())
        if self._ranks.is_first:
            save_full_state(path, FullState(held.identity, held.step, held.num_tokens, tensors))
            if self._state_path not in (None, path):
                discard_full_state(self._state_path)
        self._state_path = path
        self._save_pace.saved(time.perf_counter() - started)

    def _encode(self, experiment: Experiment, clock: Clock) -> tuple[str, Encoded]:
        """Return the experiment's training examples under their content_key, the last call's where settings are the same."""
        max_length_tokens = experiment.training.max_length_tokens
        key = (experiment.data, experiment.prompt, max_length_tokens)
        if self._encoded is None or self._encoded[0] != key:
            with clock.during("encode_seconds"):
                problems = load_pools(experiment.data)["train"]
                template = load_template(experiment.prompt.template)
                examples_key = content_key(problems, template, max_length_tokens, self._base.folder)
                encoded = encode_cached(examples_key, problems, self._tokenizer, template, max_length_tokens)
            if not encoded.examples:
                raise UserError(
                    f"data.source: {experiment.data.source} leaves no problem to train on; give it more problems"
                )
            check_ids(encoded.examples, self._base.model.get_input_embeddings().num_embeddings, self._tokenizer)
            self._encoded = key, examples_key, encoded
        return self._encoded[1:]

    def _peak_memory_bytes(self) -> int:
        """Return the most memory that training took: of the device since the run began, of a CPU since the worker began."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_resident_bytes() - self._resident_bytes_before


def _identity(run: Run) -> Run:
    """Return the run without how it is going: what decides its weights, and its name."""
    return replace(run, state="running", value=None, reason="")


def _hash_of(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _cut_metrics(path: Path, num_steps: int) -> bool:
    """Cut the file to its lines of steps 1 to num_steps; tell whether it began with just these, and leave it if not."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)[:num_steps]
        steps = [json.loads(line)["step"] for line in lines if line.endswith(b"\n")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is begun anew: %s", path, error)
        return False
    if steps != list(range(1, num_steps + 1)):
        logger.warning("%s is begun anew: it does not hold the steps 1 to %d", path, num_steps)
        return False
    os.truncate(path, sum(map(len, lines)))
    return True


def _what_is_not_finite(outcome: StepOutcome) -> str:
    return f"gradient norm is {outcome.gradient_norm}" if math.isfinite(outcome.loss) else f"loss is {outcome.loss}"


def _diverged(held: _Held, step: int, what: str) -> Diverged:
    reason = f"{what} at step {step} (learning rate {held.training.learning_rate:g})"
    return Diverged(held.run.name, step, reason)
