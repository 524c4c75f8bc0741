"""The one loop with toy workers, a real database and a real Optuna study, killed wherever it can be."""

import asyncio
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mathsft.config.schema import Experiment
from mathsft.errors import ErrorKind, UserError
from mathsft.records import Checkpoint, Score
from mathsft.runs.horizon_runs import recorded_horizon
from mathsft.runs.retention import best_step
from mathsft.workers.backend import WorkerDied
from mathsft.workers.worker import Attempts, RemoteError
from tests.study.toys import CALLS_IN_A_LIFE, Driver, KilledError, Kills, ToyEvaluator, leaves, study_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> tuple[dict[str, Any], int]:
    kills = Kills()
    driver = Driver(tmp_path_factory.mktemp("study") / "undisturbed", experiment, kills)
    driver.study(study_config())
    driver.final(study_config())
    return driver.summary(), kills.num_calls


def test_the_study_has_all_kinds_of_ends_and_its_book_agrees_with_optuna(undisturbed: tuple[dict[str, Any], int]) -> None:
    summary, _ = undisturbed
    trials = [run for run in summary["runs"] if run.number is not None]
    assert [run.number for run in trials] == list(range(8))
    assert {"finished", "pruned"} <= {run.state for run in trials}
    expected = {"finished": "COMPLETE", "diverged": "COMPLETE", "pruned": "PRUNED"}
    assert [state for _, _, state, _ in summary["optuna"]] == [expected[run.state] for run in trials]
    assert {pool for run, _, pool in summary["scores"] if run.startswith("final-")} == {"validation", "test"}
    assert (summary["promotion"].run, "validation") in {(run, pool) for run, _, pool in summary["scores"]}


def test_the_gold_nll_is_asked_for_where_it_is_read(undisturbed: tuple[dict[str, Any], int]) -> None:
    summary, _ = undisturbed
    last_steps = {name: max(step for run, step, _ in summary["scores"] if run == name) for name, _, _ in summary["scores"]}
    own_pools = {run.name: run.plan.pool for run in summary["runs"]}
    read = {
        (run, step, pool)
        for run, step, pool in summary["scores"]
        if pool == "test" or (pool == own_pools[run] and step == last_steps[run])
    }
    assert summary["with_nll"] == read
    assert len(read) < len(summary["scores"])


def test_scores_and_promotion_do_not_depend_on_who_scored_what_and_when(
    tmp_path: Path, experiment: Experiment, undisturbed: tuple[dict[str, Any], int]
) -> None:
    """Of two evaluators one is slow, so that a run's checkpoints are scored out of order."""
    expected, _ = undisturbed
    driver = Driver(tmp_path / "two", experiment, Kills(), num_evaluators=2)
    driver.study(study_config())
    driver.final(study_config())
    assert driver.summary() == expected
    scored = sorted(driver.store.worker_calls(), key=lambda call: call.ended)
    assert {call.worker for call in scored if call.pool} == {"evaluator-0", "evaluator-1"}
    steps = {run.name: [call.step for call in scored if call.run == run.name and call.pool] for run in expected["runs"]}
    assert any(of_run != sorted(of_run) for name, of_run in steps.items() if name.startswith("trial"))


def test_what_a_dead_evaluator_was_scoring_is_scored_by_another(
    tmp_path: Path, experiment: Experiment, undisturbed: tuple[dict[str, Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = undisturbed
    call_once, num_deaths = ToyEvaluator.call_once, Counter[str]()

    async def dying(self: ToyEvaluator, attempts: Attempts, method: str, *args: Any) -> Any:
        if self.name == "evaluator-0" or num_deaths.total() > 50:
            num_deaths[f"{args[0].run} {args[0].step} {args[2]}"] += 1
            raise WorkerDied("killed", tmp_path / "log")
        return await call_once(self, attempts, method, *args)

    monkeypatch.setattr(ToyEvaluator, "call_once", dying)
    driver = Driver(tmp_path / "s", experiment, Kills(), num_evaluators=2)
    driver.study(study_config())
    driver.final(study_config())
    assert driver.summary() == expected
    assert num_deaths and set(num_deaths.values()) == {1}, "the other evaluator is free at once or soon"
    assert {call.worker for call in driver.store.worker_calls() if call.pool} == {"evaluator-1"}
    num_deaths["from here on all of them die"] = 100
    with pytest.raises(BaseExceptionGroup) as caught:
        Driver(tmp_path / "another", experiment, Kills(), num_evaluators=2).study(study_config())
    assert any(re.search(r"score: the worker died 3 times without progress", str(leaf)) for leaf in leaves(caught.value))


@pytest.mark.parametrize(("at_end", "num_evaluators"), [(False, 1), (True, 1), (True, 2)])
def test_killed_anywhere_it_ends_as_if_undisturbed(
    tmp_path: Path,
    experiment: Experiment,
    undisturbed: tuple[dict[str, Any], int],
    at_end: bool,
    num_evaluators: int,
) -> None:
    """Every life of the driver but the last is killed after some calls, so that the kills fall on all stages of a study."""
    expected, num_calls = undisturbed
    num_lives = 0
    while True:
        kills = Kills(after=CALLS_IN_A_LIFE, at_end=at_end)
        driver = Driver(tmp_path / "killed", experiment, kills, num_evaluators=num_evaluators)
        num_lives += 1
        try:
            driver.study(study_config())
            driver.final(study_config())
        except BaseException as error:
            if not any(isinstance(leaf, KilledError) for leaf in leaves(error)):
                raise
        else:
            break
    assert num_lives > num_calls / CALLS_IN_A_LIFE
    assert driver.summary() == expected


def test_a_final_run_that_goes_on_keeps_what_its_settings_say_by_then(tmp_path: Path, experiment: Experiment) -> None:
    eval_points = [share / 8 for share in range(9)]
    whole = {"num_examples": 256, "eval_points": eval_points}
    Driver(tmp_path / "s", experiment, Kills()).study(study_config(num_trials=2))
    with pytest.raises(BaseException) as caught:
        Driver(tmp_path / "s", experiment, Kills(after=4)).final(study_config(final=whole))
    assert any(isinstance(leaf, KilledError) for leaf in leaves(caught.value))
    driver = Driver(tmp_path / "s", experiment, Kills())
    run = driver.final(study_config(final={**whole, "keep_every": 3}))
    assert len(driver.store.runs("final")) == 1, "what is kept names no other run"
    scores = driver.store.scores(run.name, "validation")
    left = {path.name for path in (tmp_path / "s" / "runs" / run.name).glob("step-*")}
    wanted = {scores[3].step, scores[6].step, scores[-1].step, best_step(scores)}
    assert left == {f"step-{step:06d}" for step in wanted}


def test_the_horizon_is_looked_at_once_and_survives_kills(tmp_path: Path, experiment: Experiment) -> None:
    config = study_config(horizon={"num_examples": 64, "num_rates": 3}, num_trials=4)
    whole = Driver(tmp_path / "whole", experiment, Kills())
    whole.study(config)
    promoted = whole.store.promotion()
    assert promoted is not None
    middle = promoted.overrides["training.learning_rate"]
    runs = whole.store.runs("horizon")
    assert sorted((run.plan.num_examples, run.overrides["training.learning_rate"]) for run in runs) == [
        (length, middle * factor) for length in (64, 128) for factor in (0.5, 1.0, 2.0)
    ]
    assert {run.overrides["training.batch_size"] for run in runs} == {promoted.overrides["training.batch_size"]}
    assert len(recorded_horizon(whole.store)) == sum(run.state == "finished" for run in runs)

    for after in (7, 12, 18):
        try:
            Driver(tmp_path / "killed", experiment, Kills(after)).study(config)
        except BaseException as error:
            if not any(isinstance(leaf, KilledError) for leaf in leaves(error)):
                raise
    killed = Driver(tmp_path / "killed", experiment, Kills())
    killed.study(config)
    for name in ("scores", "promotion", "optuna"):
        assert killed.summary()[name] == whole.summary()[name]
    assert sorted(killed.store.runs(), key=lambda run: run.name) == sorted(whole.store.runs(), key=lambda run: run.name)
    kills = Kills()
    Driver(tmp_path / "killed", experiment, kills).study(config)
    assert kills.num_calls == 0


def test_running_it_again_repeats_nothing_and_more_trials_go_on(tmp_path: Path, experiment: Experiment) -> None:
    Driver(tmp_path / "s", experiment, Kills()).study(study_config(num_trials=3))
    kills = Kills()
    again = Driver(tmp_path / "s", experiment, kills)
    again.study(study_config(num_trials=3))
    assert kills.num_calls == 0
    again.study(study_config(num_trials=5))
    assert len(again.store.runs("trial")) == 5


def test_given_settings_are_the_first_trials_and_survive_a_kill(tmp_path: Path, experiment: Experiment) -> None:
    given = ({"training.learning_rate": 2e-3, "training.batch_size": 8}, {"training.batch_size": 16})
    whole = Driver(tmp_path / "whole", experiment, Kills(), given=given)
    whole.study(study_config(num_trials=4))
    killed = Driver(tmp_path / "killed", experiment, Kills(after=2), given=given)
    with pytest.raises(BaseException) as caught:
        killed.study(study_config(num_trials=4))
    assert any(isinstance(leaf, KilledError) for leaf in leaves(caught.value))
    again = Driver(tmp_path / "killed", experiment, Kills(), given=given)
    again.study(study_config(num_trials=4))
    trials = again.store.runs("trial")
    assert trials[0].overrides == given[0]
    assert trials[1].overrides["training.batch_size"] == 16
    assert [trial.overrides for trial in trials] == [trial.overrides for trial in whole.store.runs("trial")]


def test_several_trainers_end_with_exactly_n_trials(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills(), num_trainers=3)
    driver.study(study_config())
    assert [run.number for run in driver.store.runs("trial")] == list(range(8))
    assert all(run.state != "running" for run in driver.store.runs())


def refuse(monkeypatch: pytest.MonkeyPatch, prefix: str, num_times: int) -> None:
    """Have every toy evaluator find the weights under a path corrupt, the first num_times."""
    score, num_refused = ToyEvaluator.score, Counter[tuple[str, str]]()

    async def refusing(self: ToyEvaluator, checkpoint: Checkpoint, experiment: Experiment, pool: str, *args: Any) -> Score:
        num_refused[checkpoint.path, pool] += 1
        if checkpoint.path.startswith(prefix) and num_refused[checkpoint.path, pool] <= num_times:
            raise RemoteError(f"{checkpoint.path} cannot be read", ErrorKind.CHECKPOINT)
        return await score(self, checkpoint, experiment, pool, *args)

    monkeypatch.setattr(ToyEvaluator, "score", refusing)


def test_corrupt_weights_are_trained_again_and_nothing_else_changes(
    tmp_path: Path, experiment: Experiment, undisturbed: tuple[dict[str, Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, num_calls = undisturbed
    refuse(monkeypatch, "runs/", num_times=1)
    kills = Kills()
    driver = Driver(tmp_path / "s", experiment, kills)
    driver.study(study_config())
    driver.final(study_config())
    assert driver.summary() == expected
    assert kills.num_calls > num_calls


@pytest.mark.parametrize("purpose", ["study", "final"])
def test_nothing_is_scored_by_an_engine_that_computes_otherwise(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, purpose: str
) -> None:
    config, driver = study_config(), Driver(tmp_path / "s", experiment, Kills())
    if purpose == "final":
        driver.study(config)
    num_scores = len(driver.store.scores())

    async def call(self: ToyEvaluator, method: str, *args: Any, progress: Path | None = None) -> Any:
        assert method == "check_engine", "the first thing that an evaluator is asked for"
        await asyncio.sleep(0.01)  # training goes on meanwhile
        raise UserError("another function")

    with monkeypatch.context() as patch, pytest.raises(BaseExceptionGroup) as caught:
        patch.setattr(ToyEvaluator, "call", call)
        getattr(driver, purpose)(config)
    assert [str(leaf) for leaf in leaves(caught.value)] == ["another function"]
    assert len(driver.store.scores()) == num_scores
    getattr(driver, purpose)(config)
    assert {run.state for run in driver.store.runs()} <= {"finished", "pruned", "diverged"}, "nothing is lost"


def test_a_failed_trial_says_why_and_is_replaced(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "runs/trial-1/", num_times=99)
    driver = Driver(tmp_path / "s", experiment, Kills())
    rates = {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 5e-3, "log": True}}  # none of them diverges
    driver.study(study_config(num_trials=3, search=rates, pruner={"name": "NopPruner"}))
    trials = driver.store.runs("trial")
    assert [trial.state for trial in trials] == ["finished", "failed", "finished", "finished"]
    assert trials[1].value is None
    assert re.fullmatch(r"runs/trial-1/step-\d+ cannot be read", trials[1].reason)
    assert [state for _, _, state, _ in driver.optuna_trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_database_in_use_is_one_clear_line_and_nothing_is_lost(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathsft.store.database.LOCK_TIMEOUT_SECONDS", 0)
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(num_trials=2))
    with sqlite3.connect(driver.layout.database, isolation_level=None) as other:
        other.execute("begin immediate")
        with pytest.raises(UserError, match="database is locked"):
            driver.study(study_config(num_trials=4))
    driver.study(study_config(num_trials=4))
    assert [run.number for run in driver.store.runs("trial")] == [0, 1, 2, 3]


def test_a_study_of_both_methods_ends_with_kills_as_without(tmp_path: Path, experiment: Experiment) -> None:
    methods = {
        "training.lora.rank": {"type": "categorical", "choices": [4, 16]},
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
        "training.method": {"type": "categorical", "choices": ["full", "lora"]},
    }
    config = study_config(search=methods)
    whole = Driver(tmp_path / "whole", experiment, Kills())
    whole.study(config)
    trials = whole.store.runs("trial")
    assert {trial.overrides["training.method"] for trial in trials} == {"full", "lora"}
    for trial in trials:
        is_lora = trial.overrides["training.method"] == "lora"
        assert ("training.lora.rank" in trial.overrides) == is_lora
        assert trial.experiment.training.method == trial.overrides["training.method"]
    while True:
        driver = Driver(tmp_path / "killed", experiment, Kills(after=CALLS_IN_A_LIFE))
        try:
            driver.study(config)
            break
        except BaseException as error:
            if not any(isinstance(leaf, KilledError) for leaf in leaves(error)):
                raise
    assert [trial.overrides for trial in driver.store.runs("trial")] == [trial.overrides for trial in trials]
