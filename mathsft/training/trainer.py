"""The trainer worker: trains one run at a time up to a requested step and publishes its weights.

A request continues from the run in memory, else from its full state on disk, else from the base weights. The result is the
same in each case, so requests are idempotent. If several ranks train, all get the same requests, and only rank 0 reads and
writes the run's files.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from mathsft.config.schema import Experiment
from mathsft.costs import Memory, Stopwatch, TrainingCosts
from mathsft.data.encoded_cache import content_key, encode_cached
from mathsft.data.examples import Encoded, check_ids
from mathsft.data.pools import load_pools
from mathsft.data.weights import fingerprint
from mathsft.errors import UserError, disk_full_as_user_error
from mathsft.footprint import full_state_bytes
from mathsft.layout import ENGINE_CHECK
from mathsft.prompts.renderer import make_renderer
from mathsft.publication import stamps_of
from mathsft.records import Checkpoint, Diverged, Example, LogprobCheck, Run, StepMetrics
from mathsft.training.base_copy import BaseCopy
from mathsft.training.batching.microbatches import common_prefix
from mathsft.training.batching.order import optimizer_batch
from mathsft.training.cpu.memory import status_bytes
from mathsft.training.full_state import FullState, SavePace, discard_full_state, load_full_state, save_full_state
from mathsft.training.logprob_check import changed_copy, check_token_ids, make_logprob_check
from mathsft.training.meter.peak_memory import predicted_peak
from mathsft.training.meter.utilization import Utilization
from mathsft.training.publisher import Publisher
from mathsft.training.rank_group import join_ranks
from mathsft.training.state import are_finite, host_copy, load_base
from mathsft.training.step import StepOutcome, TrainingStep
from mathsft.training.trained import choose_trained
from mathsft.worker_settings import WorkerSettings

logger = logging.getLogger(__name__)


@dataclass
class _CurrentRun:
    """The run whose weights are in the model, after `step` optimizer steps. Training changes this object."""

    run: Run
    examples: tuple[Example, ...]
    training_step: TrainingStep
    identity: str
    """Hash of everything that determines the run's weights."""
    num_too_long: int
    predicted_memory: Memory | None
    """Predicted peak; None for several ranks and for a model whose memory cannot be predicted."""
    step: int = 0
    num_tokens: int = 0
    diverged: Diverged | None = None


class Trainer:
    """Trains runs (`advance`), and frees the device for another worker (`park`).

    The model is always that of settings.experiment.model.path; all other settings come from each run's own experiment.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.worker_device.num_threads)
        self._settings, self._layout = settings, settings.layout
        self._device = torch.device(settings.worker_device.device)
        self._ranks = join_ranks(self._device)
        model_folder = Path(settings.experiment.model.path)
        self._tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
        self._engine_dtype_name = settings.worker_device.engine_dtype
        self._engine_dtype: torch.dtype = getattr(torch, self._engine_dtype_name)
        self._resident_bytes_before = status_bytes("VmRSS")
        worker_device = settings.worker_device
        self._base = load_base(model_folder, worker_device.attention, numpy_products=worker_device.numpy_products)
        self._utilization = Utilization(self._base.model, self._device, self._ranks.size)
        self._publisher = Publisher(self._layout)
        self._encoded: tuple[object, str, Encoded] | None = None
        self._current: _CurrentRun | None = None
        self._base_fingerprint = fingerprint(model_folder)
        self._base_copy = BaseCopy(self._layout.base_weights)
        self._num_trained = self._base.size.num_parameters
        self._state_bytes = full_state_bytes(self._num_trained)
        self._save_pace = SavePace(self._state_bytes)
        self._max_fitting_tokens: int | None = None
        self._state_path: Path | None = None
        """The full state that this trainer saved or loaded last; it deletes this file when it saves another run's state."""

    def advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        """Train the run to the step and begin to publish its weights; return None on ranks other than 0.

        The checkpoint has no fingerprint yet: a `Publication` tells it, or the error, which the run's next step raises, too.
        Returns Diverged if the loss, the gradient, a predicted log probability or a weight was not finite at to_step or
        earlier. Raises UserError if the data cannot be read or the disk is full, and OutOfMemoryError if an example does
        not fit into memory.
        """
        with disk_full_as_user_error(self._layout.run(run.name), "space for the run's metrics and checkpoints"):
            return self._advance(run, to_step)

    def _advance(self, run: Run, to_step: int) -> Checkpoint | Diverged | None:
        stopwatch = Stopwatch()
        current = self._reusable_current(run, to_step)
        if current is None:
            self._current = None  # a parked run that ends here never returns to the device
            current = self._current = self._start(run, to_step, stopwatch)
        else:
            current.training_step.move_to(self._device)
        if to_step > run.num_steps:
            raise ValueError(f"run {run.name} has {run.num_steps} steps, but was asked for step {to_step}")
        num_tokens_before = current.num_tokens
        with stopwatch.during("train_seconds"):
            self._train(current, to_step)
        if current.diverged and to_step >= current.diverged.step:
            return current.diverged
        trained = current.training_step.trained
        weights = self._ranks.gather(current.training_step.weights())
        logprob_check, cause = None, ""
        if self._ranks.is_first:
            with stopwatch.during("check_seconds"):
                tensors = trained.published(weights)  # where they are: on the device, unless ranks gathered them
                token_ids, loaded = check_token_ids(current.examples), trained.loaded(tensors)
                logprob_check = make_logprob_check(self._base.model, loaded, token_ids, self._engine_dtype)
                cause = self._infinity(tensors, logprob_check)
        if self._ranks.broadcast(bool(cause)):
            current.diverged = _diverged(current, to_step, cause)
            return current.diverged
        if logprob_check is None:
            return None  # rank 0 answers
        with stopwatch.during("save_seconds"):
            publish = partial(trained.publish, base_copy=self._base_copy, model_path=run.experiment.model.path)
            self._publisher.start(run.name, to_step, host_copy(tensors, weights), publish)
        own_bytes = status_bytes("VmHWM") - self._resident_bytes_before
        costs = TrainingCosts(
            **stopwatch.seconds,
            num_tokens=current.num_tokens - num_tokens_before,
            num_too_long=current.num_too_long,
            num_ranks=self._ranks.size,
            peak_memory_bytes=torch.cuda.max_memory_allocated() if self._device.type == "cuda" else own_bytes,
            predicted_memory=current.predicted_memory,
        )
        path = self._layout.recorded(self._layout.checkpoint(run.name, to_step))
        return Checkpoint(run.name, to_step, path, "", logprob_check, costs, finite_dtype=self._engine_dtype_name)

    def _infinity(self, tensors: Mapping[str, Tensor], logprob_check: LogprobCheck) -> str:
        """Return what is not finite of weights that are to be published; empty if they can be served."""
        if not all(map(math.isfinite, logprob_check.logprobs)):
            return "a log probability of the logprob check is not finite"
        return "" if are_finite(tensors.values(), self._engine_dtype) else "a weight is not finite"

    def publish_for_check(self) -> tuple[Checkpoint, ...]:
        """Publish untrained weights and a changed copy, with their logprob checks, to check an engine with (rank 0 only).

        There is such a pair for each training.method of the study's runs.
        """
        if not self._ranks.is_first:
            return ()
        self._publisher.wait()
        _, encoded = self._encode(self._settings.experiment, Stopwatch())
        token_ids, published = check_token_ids(encoded.examples), []
        if self._settings.methods != ("full",):
            self._current = None  # adapters for the check take the place of a run's in the model
        for method in self._settings.methods:
            training = self._settings.experiment.training.model_copy(update={"method": method})
            trained = choose_trained(self._base, training, self._engine_dtype, seed=0)
            if self._ranks.size == 1:  # the devices of several ranks are full of shards
                self._base.model.to(self._device)
            initial = trained.published(trained.initial())
            for name, tensors in {"base": initial, "changed": changed_copy(initial)}.items():
                folder = self._layout.engine_checks / f"{method}-{name}"
                logprob_check = make_logprob_check(self._base.model, trained.loaded(tensors), token_ids, self._engine_dtype)
                trained.publish(tensors, folder, self._base_copy, self._settings.experiment.model.path)
                path, stamps = self._layout.recorded(folder), stamps_of(folder)
                published.append(Checkpoint(ENGINE_CHECK, 0, path, fingerprint(folder), logprob_check, stamps=stamps))
        self._base.model.to("cpu")
        self.park()
        return tuple(published)

    def park(self) -> None:
        """Free the device: move the run to host memory. An `advance` of the same run moves it back, to the same result.

        When it returns, nothing is being published, so that the process may end.
        """
        self._publisher.wait()
        if self._current is not None:
            self._current.training_step.move_to(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _train(self, current: _CurrentRun, to_step: int) -> None:
        """Take the run's steps up to to_step and write one metrics line per step; stop if the run diverges."""
        training = current.run.experiment.training
        with self._layout.metrics(current.run.name).open("a", encoding="utf-8") as metrics_file:
            while current.step < to_step and current.diverged is None:
                started = time.perf_counter()
                self._publisher.check(current.run.name)
                step = current.step + 1
                batch = optimizer_batch(current.examples, training.batch_size, current.run.seed, step)
                try:
                    outcome = current.training_step.take(batch, step)
                finally:  # a later run begins with a budget that fits, also if this step failed or diverges
                    self._max_fitting_tokens = current.training_step.max_fitting_tokens
                if not outcome.is_finite:
                    is_loss = not math.isfinite(outcome.loss)
                    cause = f"loss is {outcome.loss}" if is_loss else f"gradient norm is {outcome.gradient_norm}"
                    current.diverged = _diverged(current, step, cause)
                    return
                current.step = step
                current.num_tokens += outcome.num_tokens
                seconds = time.perf_counter() - started
                if self._ranks.is_first:
                    metrics_file.write(self._metrics_line(current, outcome, seconds))
                    metrics_file.flush()
                if self._ranks.broadcast(self._save_pace.is_due(seconds)):
                    self._save_state(current)

    def _metrics_line(self, current: _CurrentRun, outcome: StepOutcome, seconds: float) -> str:
        training = current.run.experiment.training
        num_adapter_weights = None if training.method == "full" else self._num_trained
        metrics = StepMetrics(
            run=current.run.name,
            step=current.step,
            loss=outcome.loss,
            learning_rate=outcome.learning_rate,
            gradient_norm=outcome.gradient_norm,
            num_tokens=outcome.num_tokens,
            num_computed_tokens=outcome.num_computed_tokens,
            seconds=seconds,
            flop_utilization=self._utilization.share(outcome, training.precision, seconds, num_adapter_weights),
        )
        return json.dumps(asdict(metrics)) + "\n"

    def _reusable_current(self, run: Run, to_step: int) -> _CurrentRun | None:
        """Return the run in memory if it is this run, up to to_step, with a matching metrics file; remove later metrics."""
        current = self._current
        if current is None or current.run != _identity(run) or current.step > to_step:
            return None
        # Another trainer may have trained this run further in the meantime.
        metrics_match = self._ranks.is_first and _cut_metrics(self._layout.metrics(run.name), current.step)
        return current if self._ranks.broadcast(metrics_match) else None

    def _start(self, run: Run, to_step: int, stopwatch: Stopwatch) -> _CurrentRun:
        """Set the model to the run's full state on disk or to the base weights, and prepare the run's next step."""
        worker_device = self._settings.worker_device
        training = worker_device.fitting(run.experiment.training)
        examples_key, encoded = self._encode(run.experiment, stopwatch)
        # Budget, checkpointing and offload of the device change updates by rounding only, so they are not in the identity.
        given = run.experiment.training.model_dump()
        determining = (run.seed, run.num_steps, given, self._base_fingerprint, examples_key)
        identity = hashlib.blake2b(json.dumps(determining, sort_keys=True).encode(), digest_size=16).hexdigest()
        self._layout.run(run.name).mkdir(parents=True, exist_ok=True)
        self._num_trained = self._base.size.num_trained(training)
        state_bytes = full_state_bytes(self._num_trained)
        if state_bytes != self._state_bytes:  # the seconds that a save of another size takes say little
            self._state_bytes, self._save_pace = state_bytes, SavePace(state_bytes)
        prefix_ids = common_prefix(encoded.examples)
        training_step = TrainingStep(
            self._base,
            training,
            run.num_steps,
            self._device,
            prefix_ids,
            self._ranks,
            self._max_fitting_tokens,
            offload=worker_device.offload,
            seed=run.seed,
        )
        predicted = None
        if self._ranks.size == 1:
            micro_batch = training_step.largest_micro_batch(encoded.examples)
            predicted = predicted_peak(self._base, training, micro_batch, self._device, offload=worker_device.offload)
        current = _CurrentRun(_identity(run), encoded.examples, training_step, identity, encoded.num_dropped, predicted)
        self._resume(current, to_step)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = f"step {current.step}" if current.step else "the base weights"
        counts = f"{len(encoded.examples)} examples, {encoded.num_dropped} too long and dropped"
        logger.info("run %s: %d steps from %s, %s", run.name, run.num_steps, start, counts)
        return current

    def _resume(self, current: _CurrentRun, to_step: int) -> None:
        """Continue from the run's full state on disk, or from step 0 if there is no valid state."""
        state = self._state_on_disk(current, to_step) if self._ranks.is_first else None
        current.step = self._ranks.broadcast(state.step if state else 0)
        current.num_tokens = self._ranks.broadcast(state.num_tokens if state else 0)
        if current.step:
            current.training_step.load_tensors(state.tensors if state else {})
            self._state_path = self._layout.full_state(current.run.name)

    def _state_on_disk(self, current: _CurrentRun, to_step: int) -> FullState | None:
        """Return the run's full state and remove later lines of its metrics; without a valid state, empty the metrics."""
        path, metrics_path = self._layout.full_state(current.run.name), self._layout.metrics(current.run.name)
        state = load_full_state(path, current.identity, to_step, like=current.training_step.tensors())
        if state is None or not _cut_metrics(metrics_path, state.step):
            # The state is deleted first, so that there is never a state without the metrics that led to it.
            discard_full_state(path)
            metrics_path.write_text("", encoding="utf-8")
            return None
        return state

    def _save_state(self, current: _CurrentRun) -> None:
        """Save the run's full state, then delete the state of another run that this trainer saved before."""
        started = time.perf_counter()
        path = self._layout.full_state(current.run.name)
        tensors = self._ranks.gather(current.training_step.tensors_to_save())
        if self._ranks.is_first:
            save_full_state(path, FullState(current.identity, current.step, current.num_tokens, tensors))
            if self._state_path not in (None, path):
                discard_full_state(self._state_path)
        self._state_path = path
        self._save_pace.saved(time.perf_counter() - started)

    def _encode(self, experiment: Experiment, stopwatch: Stopwatch) -> tuple[str, Encoded]:
        """Return the content_key and the encoded training examples; reuse those of the last call for the same settings."""
        max_length_tokens = experiment.training.max_length_tokens
        key = (experiment.task, experiment.data, experiment.prompt, max_length_tokens)
        if self._encoded is None or self._encoded[0] != key:
            with stopwatch.during("encode_seconds"):
                problems = load_pools(experiment.data, experiment.task)["train"]
                renderer = make_renderer(experiment.prompt, self._tokenizer)
                examples_key = content_key(problems, renderer, max_length_tokens, self._base.folder)
                encoded = encode_cached(examples_key, problems, renderer, max_length_tokens)
            if not encoded.examples:
                raise UserError(
                    f"data.source: {experiment.data.source} leaves no problem to train on; add more problems to it"
                )
            check_ids(encoded.examples, self._base.model.get_input_embeddings().num_embeddings, self._tokenizer)
            self._encoded = key, examples_key, encoded
        return self._encoded[1:]


def _identity(run: Run) -> Run:
    """Return the run without its progress: its name and everything that determines its weights."""
    return replace(run, state="running", value=None, reason="")


def _cut_metrics(path: Path, num_steps: int) -> bool:
    """Truncate the file after the lines of steps 1 to num_steps and return True; return False if it lacks these lines."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)[:num_steps]
        steps = [json.loads(line)["step"] for line in lines if line.endswith(b"\n")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s does not match the run: %s", path, error)
        return False
    if steps != list(range(1, num_steps + 1)):
        logger.warning("%s does not match the run: its lines are not those of steps 1 to %d", path, num_steps)
        return False
    os.truncate(path, sum(map(len, lines)))
    return True


def _diverged(current: _CurrentRun, step: int, cause: str) -> Diverged:
    learning_rate = current.run.experiment.training.learning_rate
    return Diverged(current.run.name, step, f"{cause} at step {step} (learning rate {learning_rate:g})")
