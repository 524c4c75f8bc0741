"""A study in simulation: the product's own Search, pruner and rule on a simulated world, with trainers in virtual time.

The driver here does what `mathsft.runs.execute` does: k trainers, one evaluator, training that goes on while a checkpoint
waits for its score, and verdicts that come late. Workers are replaced by waits, and the database by a store in memory.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import optuna

from bench.virtual_time import run_in_virtual_time
from bench.worlds import NUM_CONFIRM, NUM_SEARCH, Trained, World
from mathsft.config.schema import DataSettings, Experiment, ModelSettings, TrainingSettings
from mathsft.config.study_schema import Component, FinalSettings, RunSettings, SelectionSettings, StudyConfig
from mathsft.records import Ask, Promotion, PruneVerdict, Response, Run, RunKind, RunState, Score, Verdict
from mathsft.runs.contest import Rule
from mathsft.runs.results import recorded_results
from mathsft.study.components import make_pruner, make_sampler
from mathsft.study.decide import Confirm, decide
from mathsft.study.search import Search
from mathsft.study.stages import trial_plan

NUM_TRIALS = 20
EVAL_POINTS = (0.15, 0.3, 0.6, 1.0)
PRUNER = Component(name="PredictedEndPruner", arguments={"top": 0.25, "chance": 0.15, "n_startup_trials": 5})
"""Trials, eval points and pruner of the shipped quickstart study."""
SCORE_TIME = 0.15
"""Device time of a score on the search pool, as a share of that of a trial's whole training: so it is in the quickstart."""
MAX_UNSCORED = 2

EXPERIMENT = Experiment(
    model=ModelSettings(path="simulated"),
    data=DataSettings(source="simulated"),
    training=TrainingSettings(learning_rate=1e-3, batch_size=1),
)
"""The settings of a trial replace its learning rate and batch size; nothing else of it is read."""
VERDICTS = {True: Verdict("correct"), False: Verdict("wrong_answer")}


@dataclass(frozen=True)
class SimulatedStudy:
    """What a study found, and what it took."""

    promotion: Promotion
    trials: dict[str, Run]
    checkpoints: dict[str, Trained]
    """At the end of training, for each trial, pruned ones included."""
    device_time: float
    """Training and scoring, confirm stage included; the unit is the training of one whole trial."""
    train_time: float
    proposed: tuple[Run, ...]
    """The last trials, which the surface proposed."""


def simulate_study(world: World, seed: int, num_trainers: int = 1, *, prunes: bool = True) -> SimulatedStudy:
    """Run a study with the shipped quickstart's settings to its promotion."""
    config = StudyConfig(
        experiment="simulated",
        num_trials=NUM_TRIALS,
        seed=seed,
        search=dict(world.space),
        trial=RunSettings(num_examples=2**20, eval_points=EVAL_POINTS),
        final=FinalSettings(num_examples=2**23, eval_points=(1.0,)),
        sampler=Component(name="TPESampler"),
        pruner=PRUNER if prunes else Component(name="NopPruner"),
        selection=SelectionSettings(),
    )
    optuna_study = optuna.create_study(direction="maximize", sampler=make_sampler(config, 0), pruner=make_pruner(config))
    store = MemoryStore(world)
    plan = trial_plan(config.trial, MAX_UNSCORED)
    search = Search(
        config, EXPERIMENT, plan, [world.own_settings], store, optuna_study, lambda trial, run: None, num_trainers
    )
    driver = _Driver(search, store, num_trainers)
    run_in_virtual_time(driver.drive())
    rule = Rule(world.space, config.selection, NUM_CONFIRM, seed)
    promotion = _confirm(store, rule)
    num_confirmed = sum(score.num_problems for score in store.scores() if score.pool != "search")
    trials = store.runs("trial")
    return SimulatedStudy(
        promotion,
        {run.name: run for run in trials},
        {run.name: store.trained(run, 1.0) for run in trials},
        driver.train_time + SCORE_TIME * (driver.num_scores + num_confirmed / NUM_SEARCH),
        driver.train_time,
        tuple(trials[NUM_TRIALS - config.selection.num_proposed :]),
    )


def _confirm(store: "MemoryStore", rule: Rule) -> Promotion:
    """Score what the rule asks for until it promotes."""
    while isinstance(decision := decide(recorded_results(store), rule), Confirm):
        for name in decision.trials:
            store.score_on(store.run(name), decision.pool)
    assert decision is not None
    return decision


class _Driver:
    """Executes what a search proposes, as `mathsft.runs.execute` does."""

    def __init__(self, search: Search, store: "MemoryStore", num_trainers: int) -> None:
        self._search, self._store = search, store
        self._trainers, self._evaluator = asyncio.Semaphore(num_trainers), asyncio.Lock()
        self.train_time, self.num_scores = 0.0, 0

    async def drive(self) -> None:
        while not self._search.done():
            async with asyncio.TaskGroup() as runs:
                while True:
                    await self._trainers.acquire()
                    run = await self._search.next()
                    if run is None:
                        self._trainers.release()
                        break
                    self._store.write(run)
                    runs.create_task(self._execute(run))

    async def _execute(self, run: Run) -> None:
        window, judging = asyncio.Semaphore(run.plan.max_unscored), asyncio.Lock()
        stop_at: int | None = None
        is_stopped = False

        async def score(index: int, fraction: float) -> None:
            nonlocal stop_at
            async with self._evaluator:
                await asyncio.sleep(SCORE_TIME)
                self.num_scores += 1
                score = self._store.score_on(run, "search", fraction)
            async with judging:
                if stop_at is None:
                    stop_at = await self._search.judge(run, index, score)
            window.release()

        async with asyncio.TaskGroup() as scoring:
            before = 0.0
            for index, fraction in enumerate(run.plan.eval_points):
                await window.acquire()
                if is_stopped := stop_at is not None and index >= stop_at:
                    break
                await asyncio.sleep(fraction - before)
                self.train_time += fraction - before
                before = fraction
                scoring.create_task(score(index, fraction))
            self._trainers.release()
        state: RunState = "pruned" if is_stopped else "finished"
        await self._search.close(run, state, "")


@dataclass
class MemoryStore:
    """What Search and the rule read and write of a StudyStore, in memory, with the outcomes of a simulated world."""

    world: World
    study: str = "simulated"
    _runs: dict[str, Run] = field(default_factory=dict)
    _records: dict[Any, Any] = field(default_factory=dict)
    _scores: dict[tuple[str, int, str], Score] = field(default_factory=dict)
    _trained: dict[tuple[str, float], Trained] = field(default_factory=dict)
    _responses: dict[tuple[str, int, str], list[Response]] = field(default_factory=dict)

    def write(self, record: Run | Ask | PruneVerdict) -> None:
        match record:
            case Run():
                self._runs[record.name] = record
            case Ask():
                self._records[record.number] = record
            case PruneVerdict():
                self._records[record.run, record.index] = record

    def waiting(self, action: Callable[[], Any]) -> Any:
        """Return the action's result; a database in memory is never lost."""
        return action()

    def ask(self, number: int) -> Ask | None:
        return self._records.get(number)

    def prune_verdict(self, run: str, index: int) -> PruneVerdict | None:
        return self._records.get((run, index))

    def settings(self) -> None:
        return None

    def run(self, name: str) -> Run:
        return self._runs[name]

    def runs(self, kind: RunKind | None = None) -> list[Run]:
        return sorted(self._runs.values(), key=lambda run: run.number or 0)

    def scores(self, run: str | None = None, pool: str | None = None) -> list[Score]:
        found = [score for score in self._scores.values() if run in (None, score.run) and pool in (None, score.pool)]
        return sorted(found, key=lambda score: (score.run, score.step))

    def responses(self, score: Score) -> list[Response]:
        return self._responses[score.run, score.step, score.pool]

    def trained(self, run: Run, fraction: float) -> Trained:
        assert run.number is not None
        if (trained := self._trained.get((run.name, fraction))) is None:
            trained = self._trained[run.name, fraction] = self.world.train(run.number, run.overrides, fraction)
        return trained

    def score_on(self, run: Run, pool: str, fraction: float = 1.0) -> Score:
        """Score a checkpoint of a trial on the search pool or on a slice of the confirm pool."""
        trained = self.trained(run, fraction)
        if pool == "search":
            outcomes: Sequence[bool] = trained.search[:NUM_SEARCH].tolist()
        else:
            start, stop = map(int, pool.removeprefix("confirm:").split("-"))
            outcomes = trained.confirm[start:stop].tolist()
        step = round(fraction * run.num_steps)
        num_correct = sum(outcomes)
        counts = {"correct": num_correct, "wrong_answer": len(outcomes) - num_correct, "format_failure": 0, "ungraded": 0}
        score = Score(run.name, step, pool, len(outcomes), counts, "", "")
        self._scores[run.name, step, pool] = score
        self._responses[run.name, step, pool] = [_response(place, solved) for place, solved in enumerate(outcomes)]
        return score


@cache
def _response(place: int, is_correct: bool) -> Response:
    return Response(f"{place:04}", 0, "", "stop", 1, VERDICTS[is_correct])
