"""Checks with real workers, on the quickstart's model, that this machine trains, starts an engine and swaps its weights."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Self

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import LimitSettings
from mathsft.errors import UserError
from mathsft.records import Diverged, EngineCheck, Plan
from mathsft.runs.context import StudyContext
from mathsft.runs.engine_check import check_engine
from mathsft.runs.new_run import new_run
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import Notification, StudyStore
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.placement import Placement
from mathsft.workers.spawn import SpawnBackend
from mathsft.workers.worker import Device, Worker

DEVICE_CHECK = "mathsft.training.device_check:DeviceCheck"
NUM_STEPS, BATCH_SIZE, NUM_RANKS = 3, 8, 2
MAX_ATTENTION_ERROR = {"fp32": 1e-3, "bf16": 0.1}
"""Largest relative difference that rounding explains, by precision; a wrong mask gives a difference near 1."""


def check_experiment(precision: str) -> Experiment:
    """Return a small experiment with the quickstart's model, which is embedded, and this training.precision."""
    pools = {"train": 64, **dict.fromkeys(("search", "confirm", "validation", "test"), BATCH_SIZE)}
    return Experiment.model_validate(
        {
            "model": {"path": str(base_model_folder())},
            "data": {"source": "quickstart", "pools": pools},
            "prompt": {"template": "short"},
            "training": {
                "learning_rate": 1e-3,
                "batch_size": BATCH_SIZE,
                "precision": precision,
                "max_length_tokens": 256,
            },
            "evaluation": {"max_tokens": 96},
        }
    )


@dataclass(frozen=True)
class WorkerChecks:
    """The workers of the checks. Each check returns what it found in words, and raises if something is wrong.

    Errors are those of `Worker.call`, UserError, and StudyFailedError of `check_engine`.
    """

    study: StudyContext
    _engine_checks: "_EngineChecks"
    _device: Worker
    _ranks: Worker | None

    @classmethod
    @contextmanager
    def started(cls, placement: Placement, ranks: WorkerSpec | None) -> Iterator[Self]:
        """Start one trainer, one evaluator and the processes of the device check; `ranks` is a trainer with several ranks.

        All import their libraries at the same time, and none uses its device before its first check.
        """
        trainer, evaluator = placement.trainers[0], placement.evaluators[0]
        few = replace(placement, trainers=(trainer,), evaluators=(evaluator,))
        layout, experiment, limits = trainer.settings.layout, trainer.settings.experiment, LimitSettings()
        with ExitStack() as stack:

            def device_check(spec: WorkerSpec, name: str) -> Worker:
                check = replace(spec, target=DEVICE_CHECK)
                return stack.enter_context(closing(Worker(check, name, Device(), limits, backend)))

            backend = stack.enter_context(closing(SpawnBackend()))
            workers = stack.enter_context(StudyWorkers.started(few, limits, backend))
            store = stack.enter_context(closing(StudyStore.open(layout.database_url, "doctor")))
            heard = _EngineChecks()
            store.observers.append(heard)
            study = StudyContext(store, workers, layout, experiment)
            yield cls(study, heard, device_check(trainer, "attention"), device_check(ranks, "ranks") if ranks else None)

    async def attention(self) -> str:
        """Compare packed attention with sdpa attention, forward and backward, then end the process of this check."""
        settings = self._device.spec.settings
        name, limit = settings.worker_device.attention, MAX_ATTENTION_ERROR[settings.experiment.training.precision]
        with closing(self._device):
            error: float = await self._device.call("attention_error")
        if not error <= limit:
            raise UserError(
                f"{name} attention: loss or gradient differs from sdpa's by {error:.2g}, rounding explains {limit:g}: "
                "training would be wrong here; report it as a bug"
            )
        return f"{name} attention on {settings.worker_device.device}: loss and gradient are sdpa's up to {error:.1g}"

    async def ranks(self) -> str:
        """Sum tensors of several ranks, then end the processes of this check."""
        assert self._ranks is not None
        with closing(self._ranks):
            num_ranks: int = await self._ranks.call("gather_from_ranks")
        return f"{num_ranks} ranks gathered their tensors"

    async def training(self) -> str:
        """Take a few optimizer steps."""
        plan = Plan(NUM_STEPS * BATCH_SIZE, (1.0,), "search", max_unscored=1, keep="last")
        run = new_run("trial", "trial-0", experiment=self.study.experiment, overrides={}, plan=plan, seed=0)
        started = time.perf_counter()
        async with self.study.workers.trainers.lease() as trainer:
            result = await trainer.call("advance", run, NUM_STEPS)
        if isinstance(result, Diverged):
            raise UserError(f"training diverged on the quickstart's model: {result.reason}; report it as a bug")
        lines = self.study.layout.metrics(run.name).read_text(encoding="utf-8").splitlines()
        losses = ", ".join(f"{json.loads(line)['loss']:.4f}" for line in lines)
        precision = self.study.experiment.training.precision
        return f"{NUM_STEPS} steps of the quickstart's model in {precision}, {_seconds(started)}: loss {losses}"

    async def engine(self) -> str:
        """Start the engine, swap its weights twice, and compare its log probabilities with the trainer's each time."""
        await check_engine(self.study)
        return self._engine_checks.words()

    async def sleep(self) -> str:
        """Let the engine sleep, wake it, and repeat the check `engine` in the same process."""
        async with self.study.workers.evaluators.lease() as evaluator:
            processes = evaluator.processes
            await evaluator.call("park")
        await check_engine(self.study)
        if evaluator.processes != processes:
            raise UserError(
                "the engine did not wake: its process ended, and a new one took its place, which costs time at every "
                f"checkpoint; the reason is in {self.study.layout.log(evaluator.name)}"
            )
        return f"the engine slept and woke: {self._engine_checks.words()}"


class _EngineChecks:
    """An observer of the store that keeps the latest EngineCheck."""

    def __init__(self) -> None:
        self._latest: EngineCheck | None = None

    def notify(self, news: Notification) -> None:
        if isinstance(news, EngineCheck):
            self._latest = news

    def words(self) -> str:
        assert self._latest is not None
        check = self._latest
        return (
            f"{check.model_kind}: log probabilities are the trainer's before and after two swaps (largest difference "
            f"{check.nats:.1g} nats), {check.seconds:.1f} s"
        )


def _seconds(started: float) -> str:
    return f"{time.perf_counter() - started:.1f} s"
