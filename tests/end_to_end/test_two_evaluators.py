"""Two evaluators with an engine each score a final run's checkpoints side by side, on the CPU."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mathsft.config.schema import LimitSettings
from mathsft.data.models import resolve_model
from mathsft.layout import StudyLayout
from mathsft.runs.context import StudyContext
from mathsft.runs.final_run import final_run, run_final
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore
from mathsft.workers.placement import place
from tests.build import make_experiment, make_machine, make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_evaluators_share_a_final_runs_checkpoints(tmp_path: Path) -> None:
    layout, experiment = StudyLayout(tmp_path), make_experiment(max_length_tokens=256)
    local = make_experiment(str(resolve_model("quickstart")), max_length_tokens=256)
    placement = place(make_machine(), local, layout, "final")
    evaluators = tuple(replace(placement.evaluators[0], device=f"cpu:{number}") for number in (1, 2))
    store = StudyStore.open(layout.database_url, "two")
    plan = make_plan(128, (0.0, 0.25, 0.5, 0.75, 1.0), "validation", keep="best_and_last", max_unscored=9)
    run = final_run(experiment, {"evaluation.max_tokens": 48}, plan, 0)
    with StudyWorkers.started(replace(placement, evaluators=evaluators), LimitSettings()) as workers:
        ended = asyncio.run(run_final(run, None, StudyContext(store, workers, layout, experiment)))
    assert ended.state == "finished"
    assert {call.worker for call in store.worker_calls() if call.pool} == {"evaluator-0", "evaluator-1"}
    published = {checkpoint.step: checkpoint.fingerprint for checkpoint in store.checkpoints(run.name)}
    scores = store.scores(run.name, "validation")
    assert {score.step: score.fingerprint for score in scores} == published
    assert len(published) == 5
    assert all(sum(score.counts.values()) == len(store.responses(score)) == score.num_problems for score in scores)
    assert not list(tmp_path.rglob("*.progress"))
    store.close()
