"""Two evaluators with an engine each score a final run's checkpoints side by side, on the CPU, and one of them dies."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from mathsft.config.study_schema import LimitSettings
from mathsft.data.models import resolve_model
from mathsft.layout import StudyLayout
from mathsft.records import OngoingCall, Run, Score, Scoring
from mathsft.runs.context import StudyContext
from mathsft.runs.final_run import final_run, run_final
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore
from mathsft.workers.placement import place
from mathsft.workers.worker import Worker
from tests.build import make_experiment, make_machine, make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class KillsScoring:
    """An observer that kills the first evaluator once, while it scores a checkpoint."""

    def __init__(self, evaluator: Worker) -> None:
        self._evaluator, self._step = evaluator, -1
        self.num_kills = 0

    def notify(self, record: object) -> None:
        if isinstance(record, OngoingCall) and record.worker == self._evaluator.name and record.pool == "validation":
            self._step = record.step
        if isinstance(record, Scoring) and record.step == self._step and not self.num_kills:
            self.num_kills += 1
            os.kill(self._evaluator.processes[0].pid, signal.SIGKILL)


def test_two_evaluators_share_a_final_runs_checkpoints(tmp_path: Path) -> None:
    layout, experiment = StudyLayout(tmp_path), make_experiment(max_length_tokens=256)
    local = make_experiment(str(resolve_model("quickstart")), max_length_tokens=256)
    placement = place(make_machine(), local, layout, "final", evaluators=2)
    store = StudyStore.open(layout.database_url, "two")
    plan = make_plan(128, (0.0, 0.25, 0.5, 0.75, 1.0), "validation", keep="best_and_last", max_unscored=9)
    run = final_run(experiment, {"evaluation.max_tokens": 48}, plan, 0)
    with StudyWorkers.started(placement, LimitSettings()) as workers:
        study = StudyContext(store, workers, layout, experiment)

        async def work() -> tuple[Run, list[Score]]:
            first, second = await workers.evaluators.take(), await workers.evaluators.take()
            kills = KillsScoring(first)
            store.observers.append(kills)
            for evaluator in (first, second):
                workers.evaluators.give(evaluator)
            ended = await run_final(run, None, study)
            assert kills.num_kills == 1
            assert not list(tmp_path.rglob("*.progress"))
            last = store.checkpoints(run.name)[-1]
            arguments = last, run.experiment, "validation", True
            return ended, [await evaluator.call("score", *arguments) for evaluator in (first, second)]

        ended, again = asyncio.run(work())
    assert ended.state == "finished"
    assert {call.worker for call in store.worker_calls() if call.pool} == {"evaluator-0", "evaluator-1"}
    published = {checkpoint.step: checkpoint.fingerprint for checkpoint in store.checkpoints(run.name)}
    scores = store.scores(run.name, "validation")
    assert {score.step: score.fingerprint for score in scores} == published
    assert len(published) == 5
    assert all(sum(score.counts.values()) == len(store.responses(score)) == score.num_problems for score in scores)
    assert len({(call.run, call.step, call.pool) for call in store.worker_calls()}) == len(store.worker_calls())
    for score in again:
        assert score == replace(scores[-1], costs=ANY), "it does not matter who scores a checkpoint"
    store.close()
