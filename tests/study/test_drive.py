"""The one loop with toy workers, a real database and a real Optuna study, killed wherever it can be."""

import asyncio
import json
import math
import os
import re
import sqlite3
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest

from mathsft.config.schema import Experiment, StudyConfig
from mathsft.errors import StudyFailedError, UserError
from mathsft.records import Checkpoint, Response, Run, Score, StepMetrics, Verdict, WorkerSpec
from mathsft.runs.concurrency import concurrency
from mathsft.runs.crew import Crew, Lending
from mathsft.runs.final import final_plan, final_run, run_final
from mathsft.runs.ledger import Timekeeper
from mathsft.runs.retention import best_step
from mathsft.store.book import Book
from mathsft.store.folder import StudyFolder
from mathsft.study.decide import Rule
from mathsft.study.search import Search
from mathsft.study.study import is_over, promote, run_study, trial_plan
from mathsft.workers.placement import Devices, place
from mathsft.workers.worker import Failed, RemoteError

FAILS = 0.5
"""A learning rate that no toy trainer survives."""
NUM_PROBLEMS = 50
NUM_CONFIRM = 100


CALLS_IN_A_LIFE = 5
"""Of workers, before a driver that is to be killed is."""


class KilledError(BaseException):
    """Stands for SIGKILL: nobody may catch it."""


class Kills:
    """Lets `after` calls of any worker pass, then kills the driver at the beginning or the end of the next one."""

    def __init__(self, after: int | None = None, at_end: bool = False) -> None:
        self.after, self.at_end, self.num_calls = after, at_end, 0

    def strike(self, is_end: bool) -> None:
        if not is_end:
            self.num_calls += 1
        if self.after is not None and self.num_calls > self.after and is_end == self.at_end:
            raise KilledError


class Toy:
    """What the loop asks of every worker; its process is this one."""

    has_device = True
    pids = (os.getpid(),)

    def __init__(self, name: str, spec: WorkerSpec, kills: Kills) -> None:
        self.name, self.spec, self.kills = name, spec, kills
        self.folder = spec.settings.study_dir


class ToyTrainer(Toy):
    async def call(self, method: str, run: Run, step: int, progress: Path) -> Checkpoint:
        assert method == "advance"
        self.kills.strike(is_end=False)
        await asyncio.sleep(0)
        learning_rate = run.overrides.get("training.learning_rate", 1e-3)
        if learning_rate == FAILS:
            raise Failed("out of luck")
        path = f"runs/{run.name}/step-{step:06d}"
        (self.folder / path).mkdir(parents=True, exist_ok=True)
        metrics = [StepMetrics(run.name, number, 1 / number, 1e-3, 1.0, 10, 10, 0.1, None) for number in range(1, step + 1)]
        lines = [json.dumps(asdict(row)) + "\n" for row in metrics]
        (self.folder / f"runs/{run.name}/metrics.jsonl").write_text("".join(lines))
        self.kills.strike(is_end=True)
        if isinstance(learning_rate, float) and learning_rate > 8e-3:
            return Checkpoint(run.name, step, "", "", diverged=f"loss is nan at step {step}")
        return Checkpoint(run.name, step, path, f"{run.name}@{step}")


class ToyEvaluator(Toy):
    async def call(self, method: str, checkpoint: Checkpoint, overrides: dict[str, Any], pool: str, progress: Path) -> Score:
        assert method == "score"
        self.kills.strike(is_end=False)
        await asyncio.sleep(0)
        assert (self.folder / checkpoint.path).exists()
        distance = abs(math.log10(overrides.get("training.learning_rate", 1e-3) / 1e-3))
        num_correct = round(NUM_PROBLEMS * math.exp(-distance) * (1 - math.exp(-(checkpoint.step + 1) / 4)))
        counts = {"correct": num_correct, "wrong_answer": NUM_PROBLEMS - num_correct, "format_failure": 0, "ungraded": 0}
        path = self.folder / f"runs/{checkpoint.run}/responses-{checkpoint.step}-{pool}.jsonl"
        verdicts = [Verdict("correct")] * num_correct + [Verdict("wrong_answer")] * (NUM_PROBLEMS - num_correct)
        responses = [Response(f"p{number:02}", 0, "", "stop", 1, verdict) for number, verdict in enumerate(verdicts)]
        path.write_text("".join(json.dumps(asdict(response)) + "\n" for response in responses))
        self.kills.strike(is_end=True)
        return Score(
            checkpoint.run,
            checkpoint.step,
            pool,
            NUM_PROBLEMS,
            counts,
            checkpoint.fingerprint,
            str(path.relative_to(self.folder)),
        )


def study_config(**changes: Any) -> StudyConfig:
    given = {
        "experiment": "toy",
        "num_trials": 8,
        "search": {
            "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
            "training.batch_size": {"type": "categorical", "choices": [8, 16]},
        },
        "trial": {"num_examples": 128, "eval_points": [0.25, 0.5, 1.0]},
        "final": {"num_examples": 256, "eval_points": [0.5, 1.0]},
        "sampler": {"name": "TPESampler", "arguments": {"n_startup_trials": 3}},
        "pruner": {"name": "PercentilePruner", "arguments": {"percentile": 50.0, "n_startup_trials": 3}},
        "selection": {"num_proposed": 1, "num_smoothed": 1, "num_raw": 1, "round_trials": [2], "round_problems": [50]},
    }
    return StudyConfig.model_validate({**given, **changes})


class Driver:
    """One life of a driver process over the study in a folder."""

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        kills: Kills,
        num_trainers: int = 1,
        given: tuple[dict[str, Any], ...] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.given = given
        self.folder, self.num_trainers = StudyFolder(folder), num_trainers
        self.book = Book.open(self.folder.database_url, "toy")
        self.experiment, self.kills = experiment, kills

    def crew(self) -> Crew:
        folder = self.folder.path
        placement = place(Devices((0, 1), ()), self.experiment, folder, "study")
        [spec] = placement.trainers
        trainers = [ToyTrainer(f"trainer-{number}", spec, self.kills) for number in range(self.num_trainers)]
        evaluator = ToyEvaluator("evaluator", placement.evaluator, self.kills)
        return Crew(Lending(trainers), Lending([evaluator]), self.experiment, folder)

    def study(self, config: StudyConfig, deadline: float | None = None) -> None:
        search = Search(config, trial_plan(config.trial, 2), self.given, self.book, self.folder, self.num_trainers, deadline)
        rule = Rule(config.search, config.selection, NUM_CONFIRM, config.seed)
        if not is_over(search, self.book, rule):
            asyncio.run(run_study(config, rule, search, self.crew(), self.book))
        promote(rule, self.book, self.folder.path)

    def final(self, config: StudyConfig, max_unscored: int = 100) -> Run:
        promotion = self.book.promotion()
        assert promotion is not None
        run = final_run(promotion.overrides, final_plan(config.final, max_unscored), config.seed)
        return asyncio.run(run_final(run, promotion, self.crew(), self.book, config.final.min_gain))

    def summary(self) -> dict[str, Any]:
        """What must not depend on kills: runs, their curves, and every score but those of stopped trials."""
        runs = self.book.runs()
        kept = {run.name for run in runs if run.state != "pruned"}
        scores = {(s.run, s.step, s.pool): s.counts["correct"] for s in self.book.scores() if s.run in kept}
        return {"runs": runs, "scores": scores, "promotion": self.book.promotion(), "optuna": self.optuna_trials()}

    def optuna_trials(self) -> list[Any]:
        storage = optuna.storages.RDBStorage(self.folder.database_url)
        trials = optuna.load_study(study_name="toy", storage=storage).trials
        return [(t.number, t.params, t.state.name, t.intermediate_values) for t in trials]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> tuple[dict[str, Any], int]:
    kills = Kills()
    driver = Driver(tmp_path_factory.mktemp("study") / "undisturbed", experiment, kills)
    driver.study(study_config())
    driver.final(study_config())
    return driver.summary(), kills.num_calls


def leaves(error: BaseException) -> list[BaseException]:
    return [leaf for part in error.exceptions for leaf in leaves(part)] if isinstance(error, BaseExceptionGroup) else [error]


def test_the_study_has_all_kinds_of_ends_and_its_book_agrees_with_optuna(undisturbed: tuple[dict[str, Any], int]) -> None:
    summary, _ = undisturbed
    trials = [run for run in summary["runs"] if run.number is not None]
    assert [run.number for run in trials] == list(range(8))
    assert {"finished", "pruned"} <= {run.state for run in trials}
    expected = {"finished": "COMPLETE", "diverged": "COMPLETE", "pruned": "PRUNED"}
    assert [state for _, _, state, _ in summary["optuna"]] == [expected[run.state] for run in trials]
    assert {pool for run, _, pool in summary["scores"] if run.startswith("final-")} == {"watch", "test"}
    assert (summary["promotion"].run, "watch") in {(run, pool) for run, _, pool in summary["scores"]}


@pytest.mark.parametrize("at_end", [False, True])
def test_killed_anywhere_it_ends_as_if_undisturbed(
    tmp_path: Path, experiment: Experiment, undisturbed: tuple[dict[str, Any], int], at_end: bool
) -> None:
    """Every life of the driver but the last is killed after some calls, so that the kills fall on all stages of a study."""
    expected, num_calls = undisturbed
    num_lives = 0
    while True:
        driver = Driver(tmp_path / "killed", experiment, Kills(after=CALLS_IN_A_LIFE, at_end=at_end))
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


def test_a_final_run_ends_where_it_gains_little_and_is_a_finished_one(tmp_path: Path, experiment: Experiment) -> None:
    eval_points = [share / 16 for share in range(17)]

    def ended(min_gain: float | None) -> tuple[Run, Driver]:
        driver = Driver(tmp_path / str(min_gain), experiment, Kills())
        config = study_config(final={"num_examples": 512, "eval_points": eval_points, "min_gain": min_gain})
        driver.study(config)
        # Taking turns: what is trained by the time a score comes in does not depend on who is faster.
        return driver.final(config, max_unscored=1), driver

    whole, whole_driver = ended(None)
    assert (whole.state, whole.reason) == ("finished", "")
    # Of 50 problems, two invented ones among them, 0.05 is hardly more than what no change at all leaves open.
    early, driver = ended(0.05)
    steps = [score.step for score in driver.book.scores(early.name, "watch")]
    all_steps = [score.step for score in whole_driver.book.scores(whole.name, "watch")]
    assert early.state == "finished"
    found = re.fullmatch(r"ended early at step (\d+): .* at most 4\.\d points above the 3 before", early.reason)
    assert found and int(found[1]) == steps[-1]
    assert 6 <= len(steps) < len(all_steps) and steps == all_steps[: len(steps)]
    # The toy gains nothing any more where the run ended, and gained before.
    by_step = {score.step: score.accuracy for score in whole_driver.book.scores(whole.name, "watch")}
    assert by_step[steps[-1]] == by_step[all_steps[-1]]
    assert {score.step for score in driver.book.scores(early.name, "test")} >= {0, steps[-1]}
    again, _ = ended(0.05)
    assert again == early


def test_baseline_and_last_step_are_scored_and_every_checkpoint_is(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills())
    config = study_config(num_trials=2, final={"num_examples": 256, "eval_points": [0.3, 0.7, 1.0]})
    driver.study(config)
    run = driver.final(config)
    batch_size = run.overrides["training.batch_size"]
    assert isinstance(batch_size, int)
    steps = run.plan.eval_steps(batch_size)
    assert (steps[0], steps[-1], len(steps)) == (0, 256 // batch_size, 4)
    assert tuple(score.step for score in driver.book.scores(run.name, "watch")) == steps
    assert {0, steps[-1]} <= {score.step for score in driver.book.scores(run.name, "test")}


def test_every_result_has_a_stint_and_every_checkpoint_a_wait(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.book.observers.append(Timekeeper(driver.book, 1))
    driver.study(study_config(num_trials=2))
    run = driver.final(study_config())
    stints = driver.book.stints()
    results = [(one.run, one.step, "") for known in driver.book.runs() for one in driver.book.checkpoints(known.name)]
    results += [(score.run, score.step, score.pool) for score in driver.book.scores()]
    assert Counter((stint.run, stint.step, stint.pool) for stint in stints) == Counter(results)
    assert {stint.worker for stint in stints if not stint.pool} == {"trainer-0"}
    assert {(stint.worker, stint.cpus) for stint in stints if stint.pool} == {("evaluator", (1,))}
    found = concurrency(driver.book, [run.name])
    assert found is not None
    assert [wait.step for wait in found.waits] == [score.step for score in driver.book.scores(run.name, "watch")]


def test_a_final_run_that_goes_on_keeps_what_its_settings_say_by_then(tmp_path: Path, experiment: Experiment) -> None:
    eval_points = [share / 8 for share in range(9)]
    whole = {"num_examples": 256, "eval_points": eval_points}
    Driver(tmp_path / "s", experiment, Kills()).study(study_config(num_trials=2))
    with pytest.raises(BaseException) as caught:
        Driver(tmp_path / "s", experiment, Kills(after=4)).final(study_config(final=whole))
    assert any(isinstance(leaf, KilledError) for leaf in leaves(caught.value))
    driver = Driver(tmp_path / "s", experiment, Kills())
    run = driver.final(study_config(final={**whole, "keep_every": 3}))
    assert len(driver.book.runs("final-")) == 1, "what is kept names no other run"
    scores = driver.book.scores(run.name, "watch")
    left = {path.name for path in (tmp_path / "s" / "runs" / run.name).glob("step-*")}
    wanted = {scores[3].step, scores[6].step, scores[-1].step, best_step(scores)}
    assert left == {f"step-{step:06d}" for step in wanted}


def test_running_it_again_repeats_nothing_and_more_trials_go_on(tmp_path: Path, experiment: Experiment) -> None:
    Driver(tmp_path / "s", experiment, Kills()).study(study_config(num_trials=3))
    kills = Kills()
    again = Driver(tmp_path / "s", experiment, kills)
    again.study(study_config(num_trials=3))
    assert kills.num_calls == 0
    again.study(study_config(num_trials=5))
    assert len(again.book.runs("trial-")) == 5


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
    trials = again.book.runs("trial-")
    assert trials[0].overrides == given[0]
    assert trials[1].overrides["training.batch_size"] == 16
    assert [trial.overrides for trial in trials] == [trial.overrides for trial in whole.book.runs("trial-")]


def test_several_trainers_end_with_exactly_n_trials(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills(), num_trainers=3)
    driver.study(study_config())
    assert [run.number for run in driver.book.runs("trial-")] == list(range(8))
    assert all(run.state != "running" for run in driver.book.runs())


def test_failed_trials_do_not_count_and_three_in_a_row_end_the_study(tmp_path: Path, experiment: Experiment) -> None:
    search = {"training.learning_rate": {"type": "categorical", "choices": [FAILS]}}
    driver = Driver(tmp_path / "s", experiment, Kills())
    with pytest.raises(BaseExceptionGroup) as caught:
        driver.study(study_config(search=search))
    [error] = leaves(caught.value)
    assert isinstance(error, StudyFailedError)
    assert "out of luck" in str(error)
    assert {run.state for run in driver.book.runs("trial-")} == {"failed"}


def refuse(monkeypatch: pytest.MonkeyPatch, prefix: str, num_times: int) -> None:
    """Have every toy evaluator find the weights under a path corrupt, the first num_times."""
    score, num_refused = ToyEvaluator.call, Counter[tuple[str, str]]()

    async def call(
        self: ToyEvaluator, method: str, checkpoint: Checkpoint, overrides: dict[str, Any], pool: str, progress: Path
    ) -> Score:
        num_refused[checkpoint.path, pool] += 1
        if checkpoint.path.startswith(prefix) and num_refused[checkpoint.path, pool] <= num_times:
            raise RemoteError(f"{checkpoint.path} cannot be read", "CheckpointError")
        return await score(self, method, checkpoint, overrides, pool, progress)

    monkeypatch.setattr(ToyEvaluator, "call", call)


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


def test_a_failed_trial_says_why_and_is_replaced(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "runs/trial-1/", num_times=99)
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(num_trials=3, pruner={"name": "NopPruner"}))
    trials = driver.book.runs("trial-")
    assert [trial.state for trial in trials] == ["finished", "failed", "finished", "finished"]
    assert trials[1].value is None
    assert re.fullmatch(r"runs/trial-1/step-\d+ cannot be read", trials[1].reason)
    assert [state for _, _, state, _ in driver.optuna_trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_diverged_trial_is_finished_with_the_worst_value_and_the_reason(tmp_path: Path, experiment: Experiment) -> None:
    search = {"training.learning_rate": {"type": "categorical", "choices": [9e-3]}}
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(search=search, num_trials=2))
    for trial in driver.book.runs("trial-"):
        assert (trial.state, trial.value) == ("diverged", 0.0)
        assert re.fullmatch(r"loss is nan at step \d+", trial.reason)
    trials = optuna.load_study(study_name="toy", storage=driver.folder.database_url).trials
    assert [(trial.state.name, trial.value, trial.user_attrs["state"]) for trial in trials] == [
        ("COMPLETE", 0.0, "diverged")
    ] * 2


def test_a_database_in_use_is_one_clear_line_and_nothing_is_lost(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathsft.store.book.LOCK_TIMEOUT_SECONDS", 0)
    monkeypatch.setattr("mathsft.study.search.LOCK_TIMEOUT_SECONDS", 0)
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(num_trials=2))
    with sqlite3.connect(driver.folder.path / "study.db", isolation_level=None) as other:
        other.execute("begin immediate")
        with pytest.raises(UserError, match="database is locked"):
            driver.study(study_config(num_trials=4))
    driver.study(study_config(num_trials=4))
    assert [run.number for run in driver.book.runs("trial-")] == [0, 1, 2, 3]


def test_after_the_deadline_nothing_new_is_proposed(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(), deadline=0.0)
    assert driver.book.runs("trial-") == []
    assert driver.book.run("baseline") is not None


def test_a_planted_bad_trial_is_pruned(tmp_path: Path, experiment: Experiment) -> None:
    """The pruner is armed: after good trials, one with a hopeless learning rate is stopped at its first eval point."""
    by_sampler = {"num_proposed": 0, "round_trials": [], "round_problems": []}
    good = {"training.learning_rate": {"type": "float", "low": 9e-4, "high": 1.1e-3}}
    Driver(tmp_path / "s", experiment, Kills()).study(study_config(search=good, num_trials=4, selection=by_sampler))
    bad = {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1.1e-5}}
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(search=bad, num_trials=5, selection=by_sampler))
    assert driver.book.runs("trial-")[-1].state == "pruned"
