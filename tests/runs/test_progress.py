"""Following a worker's file while it writes it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.records import Scoring, StepMetrics
from mathsft.runs import progress
from mathsft.runs.context import StudyContext
from mathsft.runs.progress import MetricsTail, following, watching
from mathsft.runs.worker_pool import StudyWorkers, WorkerPool
from mathsft.store.study_store import StudyStore
from tests.build import Listener, make_checkpoint, make_experiment, make_metrics, make_trial

NOBODY = StudyWorkers(WorkerPool([]), WorkerPool([]))


def line(step: int, seconds: float = 0.1) -> str:
    return json.dumps(asdict(make_metrics("trial-0", step, seconds=seconds))) + "\n"


def test_whole_lines_once_and_a_run_that_begins_anew_tells_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)

    def read() -> list[StepMetrics]:
        new: list[StepMetrics] = []
        tail.pass_on(new.extend)
        return new

    assert read() == []
    path.write_text(line(1) + line(2)[:20])
    assert [metrics.step for metrics in read()] == [1]
    path.write_text(line(1) + line(2))
    assert [metrics.step for metrics in read()] == [2]
    path.write_text(line(1, 0.123456789))
    assert read() == []
    path.write_text("".join(line(step, 0.123456789) for step in (1, 2, 3)))
    assert [metrics.step for metrics in read()] == [2, 3]


def test_steps_that_could_not_be_recorded_are_recorded_later(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0)
    run, study = make_trial(), StudyContext(store, NOBODY, StudyLayout(tmp_path), make_experiment())
    path, refused = study.layout.metrics(run.name), list[int]()
    path.parent.mkdir(parents=True)
    path.write_text(line(1))

    def refuse(metrics: Sequence[StepMetrics]) -> None:
        refused.append(len(metrics))
        raise UserError("the database is locked")

    async def trained() -> None:
        async with following(run, study):
            with monkeypatch.context() as patch:
                patch.setattr(store, "write_metrics", refuse)
                while not refused:
                    await asyncio.sleep(0)
            path.write_text(line(1) + line(2))

    asyncio.run(trained())
    assert refused == [1]
    assert [metrics.step for metrics in store.metrics(run.name)] == [1, 2]


def test_a_scoring_is_announced_while_it_is_waited_for(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0)
    path = tmp_path / "runs/trial-0/responses/step-000008-search.progress"
    path.parent.mkdir(parents=True)
    earlier, now = Scoring("trial-0", 4, "search", 9, 9), Scoring("trial-0", 8, "search", 3, 9)
    listener = Listener()

    study = StudyContext(store, NOBODY, StudyLayout(tmp_path), make_experiment())

    async def validation() -> None:
        store.observers = [listener]
        path.write_text(json.dumps(asdict(earlier)) + "\n")  # of a scoring that was broken off
        async with watching(make_checkpoint("trial-0", 8), "search", study):
            for _ in range(3):
                await asyncio.sleep(0)
            path.write_text(json.dumps(asdict(now)) + "\n" + json.dumps(asdict(earlier))[:20])
            while not listener.heard:
                await asyncio.sleep(0)

    asyncio.run(validation())
    assert set(listener.heard) == {now}
    assert not path.exists()
