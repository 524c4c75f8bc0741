"""One life of a driver with toy workers that can be killed, a real database and a real Optuna study."""

import asyncio
import json
import math
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from sqlalchemy import URL, make_url

from mathsft.commands.dashboard_pages import show_run
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig
from mathsft.layout import StudyLayout
from mathsft.publication import Publication, tell
from mathsft.records import Checkpoint, Diverged, EngineCheck, Run, Score
from mathsft.runs.contest import Rule
from mathsft.runs.context import StudyContext
from mathsft.runs.final_run import final_plan, final_run, run_final
from mathsft.runs.worker_pool import StudyWorkers, WorkerPool
from mathsft.store.database import Database
from mathsft.store.study_store import StudyStore
from mathsft.study.search import Search, open_optuna_study
from mathsft.study.stages import is_over, promote, run_study, trial_plan
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.placement import place
from mathsft.workers.worker import Attempts, Failed
from tests.build import make_categories, make_checkpoint, make_machine, make_metrics, make_responses, score_of

FAILS = 0.5
"""A learning rate that no toy trainer survives."""
NUM_PROBLEMS = 50
NUM_CONFIRM = 100


SLOW_TURNS = 20
"""How often other tasks get their turn while the slow evaluator scores."""
TEXT = "6 * 7 = 42 <img src=http://example.com/a.png> | `![x](http://example.com/b.png)`\n\n</think> <answer> 42 </answer>"
"""Of every response: a browser that takes it for markup asks another machine."""
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

    has_answered = has_device = True
    processes: tuple[Any, ...] = (SimpleNamespace(pid=os.getpid()),)

    def is_served_by(self, processes: tuple[Any, ...]) -> bool:
        return processes == self.processes

    def __init__(self, name: str, spec: WorkerSpec, kills: Kills) -> None:
        self.name, self.spec, self.kills = name, spec, kills
        self.layout = spec.settings.layout

    async def call(self, method: str, *args: Any, progress: Path | None = None) -> Any:
        raise NotImplementedError

    async def call_once(self, attempts: Attempts, method: str, *args: Any) -> Any:
        return await self.call(method, *args)


class ToyTrainer(Toy):
    async def call(self, method: str, *args: Any, progress: Path | None = None) -> Any:
        if method == "publish_for_check":
            return "base", "changed"
        assert method == "advance"
        return await self.advance(*args)

    async def advance(self, run: Run, step: int) -> Checkpoint:
        self.kills.strike(is_end=False)
        await asyncio.sleep(0)
        learning_rate = run.overrides.get("training.learning_rate", 1e-3)
        if learning_rate == FAILS:
            raise Failed("out of luck")
        folder = self.layout.checkpoint(run.name, step)
        folder.mkdir(parents=True, exist_ok=True)
        metrics = [make_metrics(run.name, number, loss=1 / number) for number in range(1, step + 1)]
        lines = [json.dumps(asdict(row)) + "\n" for row in metrics]
        self.layout.metrics(run.name).write_text("".join(lines))
        self.kills.strike(is_end=True)
        if isinstance(learning_rate, float) and learning_rate > 8e-3:
            return Diverged(run.name, step, f"loss is nan at step {step}")
        tell(Publication(f"{run.name}@{step}"), self.layout.publication(run.name, step))
        return make_checkpoint(run.name, step, self.layout.recorded(folder), fingerprint="")


class ToyEvaluator(Toy):
    """The first one is slow: what it scores comes later than what the others score after it."""

    async def call(self, method: str, *args: Any, progress: Path | None = None) -> Any:
        if method == "check_engine":
            assert args == ("base", "changed")
            return EngineCheck(1e-6, "Toy", "swap", 0.1)
        assert method == "score"
        return await self.score(*args)

    async def score(self, checkpoint: Checkpoint, experiment: Experiment, pool: str, with_gold_nll: bool) -> Score:
        self.kills.strike(is_end=False)
        for _ in range(SLOW_TURNS if self.name == "evaluator-0" else 1):
            await asyncio.sleep(0)
        assert (self.layout / checkpoint.path).exists()
        distance = abs(math.log10(experiment.training.learning_rate / 1e-3))
        num_correct = round(NUM_PROBLEMS * math.exp(-distance) * (1 - math.exp(-(checkpoint.step + 1) / 4)))
        path = self.layout.responses(checkpoint.run, checkpoint.step, pool)
        path.parent.mkdir(exist_ok=True)
        responses = make_responses(make_categories(num_correct, NUM_PROBLEMS), text=TEXT)
        path.write_text("".join(json.dumps(asdict(response)) + "\n" for response in responses))
        self.kills.strike(is_end=True)
        where = {"fingerprint": checkpoint.fingerprint, "responses_path": self.layout.recorded(path)}
        gold_nll = 1.0 if with_gold_nll else None
        return score_of(responses, checkpoint.run, checkpoint.step, pool, gold_nll=gold_nll, **where)


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
        num_evaluators: int = 1,
        database: URL | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.given, self.num_evaluators = given, num_evaluators
        self.layout, self.num_trainers = StudyLayout(folder), num_trainers
        self.database = Database(database or make_url(self.layout.database_url))
        self.store = StudyStore.open(self.database, "toy", is_driver=True)
        self.experiment, self.kills = experiment, kills

    def context(self) -> StudyContext:
        placement = place(make_machine((0, 1), ()), self.experiment, self.layout, "study")
        [spec] = placement.trainers
        trainers = [ToyTrainer(f"trainer-{number}", spec, self.kills) for number in range(self.num_trainers)]
        [spec] = placement.evaluators
        evaluators = [ToyEvaluator(f"evaluator-{number}", spec, self.kills) for number in range(self.num_evaluators)]
        workers = StudyWorkers(WorkerPool(trainers), WorkerPool(evaluators))
        return StudyContext(self.store, workers, self.layout, self.experiment)

    def study(self, config: StudyConfig) -> None:
        search = Search(
            config,
            self.experiment,
            trial_plan(config.trial, 2),
            self.given,
            self.store,
            open_optuna_study(config, self.store),
            partial(show_run, store=self.store, layout=self.layout),
            self.num_trainers,
        )
        rule = Rule(config.search, config.selection, NUM_CONFIRM, config.seed)
        if not is_over(config, self.experiment, search, self.store, rule):
            asyncio.run(run_study(config, rule, search, self.context()))
        promote(rule, self.store, self.layout)

    def final(self, config: StudyConfig, max_unscored: int = 100) -> Run:
        promotion = self.store.promotion()
        assert promotion is not None
        run = final_run(self.experiment, promotion.overrides, final_plan(config.final, max_unscored), config.seed)
        return asyncio.run(run_final(run, promotion, self.context(), config.final.min_gain))

    def summary(self) -> dict[str, Any]:
        """What must not depend on kills: runs, their curves, and every score but those of stopped trials."""
        runs = self.store.runs()
        kept = {run.name for run in runs if run.state != "pruned"}
        scores = {(s.run, s.step, s.pool): s.counts["correct"] for s in self.store.scores() if s.run in kept}
        with_nll = {(s.run, s.step, s.pool) for s in self.store.scores() if s.run in kept and s.gold_nll is not None}
        return {
            "runs": runs,
            "scores": scores,
            "with_nll": with_nll,
            "promotion": self.store.promotion(),
            "optuna": self.optuna_trials(),
        }

    def optuna_trials(self) -> list[Any]:
        storage = optuna.storages.RDBStorage(self.database.url.render_as_string(hide_password=False))
        trials = optuna.load_study(study_name="toy", storage=storage).trials
        return [(t.number, t.params, t.state.name, t.intermediate_values) for t in trials]


def leaves(error: BaseException) -> list[BaseException]:
    return [leaf for part in error.exceptions for leaf in leaves(part)] if isinstance(error, BaseExceptionGroup) else [error]
