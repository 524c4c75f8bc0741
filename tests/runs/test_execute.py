"""A score that evaluators die over, and one whose responses do not arrive."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Run, Score
from mathsft.runs import execute
from mathsft.runs.context import StudyContext
from mathsft.runs.execute import scored
from mathsft.runs.worker_pool import StudyWorkers, WorkerPool
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.backend import WorkerDied
from mathsft.workers.placement import place
from mathsft.workers.worker import ATTEMPTS, Attempts, Failed
from tests.build import make_checkpoint, make_experiment, make_machine, make_trial
from tests.study.toys import Kills, ToyEvaluator

NUM_DEATHS = 2 * ATTEMPTS


class Mortal(ToyEvaluator):
    """Dies over its first scores, each time with a longer progress file or with an empty one."""

    gets_further, num_calls = True, 0

    async def call_once(self, attempts: Attempts, method: str, *args: Any) -> Any:
        self.num_calls += 1
        if self.num_calls > NUM_DEATHS:
            return await super().call_once(attempts, method, *args)
        path = self.layout.scoring(args[0].run, args[0].step, args[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("." * self.num_calls if self.gets_further else "")
        raise WorkerDied("was killed", self.layout.log(self.name))


class Forgetful(ToyEvaluator):
    """Loses the file of its responses."""

    async def score(self, checkpoint: Checkpoint, *args: Any) -> Score:
        score = await super().score(checkpoint, *args)
        (self.layout / score.responses_path).unlink()
        return score


def score(run: Run, evaluator: ToyEvaluator, store: StudyStore) -> Score:
    checkpoint = make_checkpoint(run.name, 8, f"runs/{run.name}/step-000008")
    (evaluator.layout / checkpoint.path).mkdir(parents=True)
    workers = StudyWorkers(WorkerPool([]), WorkerPool([evaluator]))
    study = StudyContext(store, workers, evaluator.layout, run.experiment)
    return asyncio.run(scored(run, checkpoint, "search", study))


def evaluator_spec(folder: Path) -> WorkerSpec:
    [spec] = place(make_machine(), make_experiment(), StudyLayout(folder), "study").evaluators
    return spec


@pytest.mark.parametrize("gets_further", [True, False])
def test_deaths_between_which_a_score_got_further_are_not_counted(
    store: StudyStore, tmp_path: Path, gets_further: bool
) -> None:
    run, evaluator = make_trial(), Mortal("evaluator-0", evaluator_spec(tmp_path), Kills())
    evaluator.gets_further = gets_further
    if gets_further:
        assert store.score(run.name, 8, "search") is None
        assert score(run, evaluator, store) == store.score(run.name, 8, "search")
        assert evaluator.num_calls == NUM_DEATHS + 1
    else:
        with pytest.raises(Failed, match=r"^evaluator-0.score: the worker died 3 times without progress"):
            score(run, evaluator, store)
        assert evaluator.num_calls == ATTEMPTS


def test_responses_that_do_not_arrive_are_one_clear_line(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "ARRIVAL_SECONDS", 0)
    evaluator = Forgetful("evaluator-0", evaluator_spec(tmp_path), Kills())
    with pytest.raises(UserError, match=r"step-000008-search.jsonl: an evaluator wrote this file, and it is not there"):
        score(make_trial(), evaluator, store)
    assert store.scores() == []
