"""The driver's side of publishing: what is lost in saving is trained again, and what cannot be saved fails its run."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mathsft.config.study_schema import LimitSettings
from mathsft.data.weights import fingerprint
from mathsft.errors import ErrorKind, UserError
from mathsft.publication import Publication, tell
from mathsft.records import Run, Score
from mathsft.runs.context import StudyContext
from mathsft.runs.execute import drive
from mathsft.runs.final_run import SingleRun
from mathsft.runs.publishing import Publishing, published
from mathsft.runs.worker_pool import StudyWorkers, WorkerPool
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerSettings, WorkerSpec
from mathsft.workers.worker import Device, Failed, RemoteError, Worker
from tests.build import make_checkpoint, make_plan, make_responses, make_run, score_of
from tests.training.held_trainer import HELD_STEP, partial_of
from tests.training.published import curve

PLAN = make_plan(40, (0.4, 0.8, 1.0), max_unscored=9)
ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Scorer:
    """An evaluator that compares the fingerprint and gives every checkpoint the same score."""

    name, has_device, has_answered = "evaluator-0", True, True
    processes = (SimpleNamespace(pid=os.getpid()),)

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec, self.layout = spec, spec.settings.layout

    async def call_once(self, attempts: Any, method: str, checkpoint: Any, *rest: Any) -> Score:
        assert fingerprint(self.layout / checkpoint.path) == checkpoint.fingerprint
        path = self.layout.responses(checkpoint.run, checkpoint.step, "search")
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        where = {"fingerprint": checkpoint.fingerprint, "responses_path": self.layout.recorded(path)}
        return score_of(make_responses(["correct"]), checkpoint.run, checkpoint.step, "search", **where)


def train(settings: WorkerSettings, target: str) -> tuple[Run, dict[int, str], int]:
    """Train a run with this trainer, killed when it saves HELD_STEP and is HELD_STEP steps further."""
    layout, num_kills = settings.layout, 0
    layout.root.mkdir()
    spec = WorkerSpec(target, settings, "cpu:0", ENV, ())
    trainer = Worker(spec, "trainer-0", Device(), LimitSettings())
    store = StudyStore.open(layout.database_url, "publishing")
    scorer: Any = Scorer(replace(spec, device="cpu:1"))
    study = StudyContext(store, StudyWorkers(WorkerPool([trainer]), WorkerPool([scorer])), layout, settings.experiment)
    source = SingleRun(make_run("trial-0", plan=PLAN, experiment=settings.experiment), store)

    async def kill() -> None:
        nonlocal num_kills
        metrics, held = layout.metrics("trial-0"), partial_of(layout.checkpoint("trial-0", HELD_STEP))
        while not (held.exists() and metrics.read_bytes().count(b"\n") == 2 * HELD_STEP):
            await asyncio.sleep(0.01)
        num_kills += 1
        os.kill(trainer.processes[0].pid, signal.SIGKILL)

    async def work() -> None:
        killing = asyncio.create_task(kill())
        try:
            await asyncio.wait_for(drive(source, study), 120)
        finally:
            killing.cancel()

    try:
        asyncio.run(work())
        return source.run, {point.step: point.fingerprint for point in store.checkpoints("trial-0")}, num_kills
    finally:
        trainer.close()
        store.close()


@pytest.mark.slow
def test_a_trainer_that_is_killed_while_it_saves_loses_nothing(
    make_model: Callable[..., Path], make_settings: Callable[..., WorkerSettings], tmp_path: Path
) -> None:
    settings = make_settings(make_model(tied=True))
    undisturbed = replace(settings, layout=replace(settings.layout, root=tmp_path / "undisturbed"))
    expected, fingerprints, num_kills = train(undisturbed, "mathsft.training.trainer:Trainer")
    assert num_kills == 0 and list(fingerprints) == [4, 8, 10]
    assert train(settings, "tests.training.held_trainer:HeldTrainer") == (expected, fingerprints, 1)
    assert curve(settings.layout.root) == curve(undisturbed.layout.root)
    left = settings.layout.run("trial-0")
    assert not [*left.glob("*.partial"), *left.glob(".*.partial"), *left.glob("published-*")]


def waiting(tmp_path: Path, store: StudyStore, hang_seconds: float = 60.0) -> tuple[Publishing, StudyContext, list[bool]]:
    """Return a checkpoint that is being published, and whether its trainer is alive, as a list that a test may change."""
    is_alive = [True]
    trainer: Any = SimpleNamespace(name="trainer-0", is_served_by=lambda processes: processes == (7,) and is_alive[0])
    layout: Any = SimpleNamespace(publication=lambda run, step: tmp_path / f"{run}-{step}.json")
    workers = StudyWorkers(WorkerPool([]), WorkerPool([]), limits=LimitSettings(hang_seconds=hang_seconds))
    experiment: Any = None
    study = StudyContext(store, workers, layout, experiment)
    return Publishing(make_checkpoint("trial-0", 4, fingerprint=""), trainer, (7,)), study, is_alive


def test_a_checkpoint_is_recorded_when_it_is_on_disk(tmp_path: Path, store: StudyStore) -> None:
    publishing, study, is_alive = waiting(tmp_path, store)

    async def work() -> Any:
        task = asyncio.create_task(published(publishing, study))
        await asyncio.sleep(0)
        assert store.checkpoints("trial-0") == []
        tell(Publication("f"), tmp_path / "trial-0-4.json")
        is_alive[0] = False  # it died after that
        return await task

    assert asyncio.run(work()) == store.checkpoint("trial-0", 4) == replace(publishing.checkpoint, fingerprint="f")


def test_a_checkpoint_that_never_comes_is_noticed(tmp_path: Path, store: StudyStore) -> None:
    publishing, study, is_alive = waiting(tmp_path, store)
    is_alive[0] = False
    assert asyncio.run(published(publishing, study)) is None
    publishing, study, _ = waiting(tmp_path, store, hang_seconds=0.01)
    with pytest.raises(Failed, match=r"trainer-0: step 4 of trial-0 was not on disk after 0.01 s \(limits.hang_seconds\)"):
        asyncio.run(published(publishing, study))
    kinds: list[tuple[ErrorKind, type[Exception]]] = [(ErrorKind.USER, UserError), (ErrorKind.CODE, RemoteError)]
    for kind, error in kinds:
        tell(Publication(error="the disk is full", error_kind=kind), tmp_path / "trial-0-4.json")
        with pytest.raises(error, match="the disk is full"):
            asyncio.run(published(publishing, study))
    assert store.checkpoints("trial-0") == []
