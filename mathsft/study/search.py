"""Runs a study's trials with Optuna: asks for parameters, reports scores, applies the pruner, and reports how trials end.

Optuna owns the trials' numbers and parameters; the store owns their results, and `tell` copies these to Optuna.

With one trainer, ask(n) waits until trial n-2 is told, trial n is told after ask(n+1), and the pruner judges trial n after
trial n-1 is told. Each call therefore sees the same trials regardless of timing, and a killed study continues exactly as if
it had not been killed. With several trainers, such waiting would leave them idle, so nothing waits. Instead each ask and
each verdict of the pruner is recorded with the trials whose end it saw: a resumed study keeps the recorded verdicts, and
every ask and every verdict can be computed again from the records.
"""

import asyncio
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from mathsft.config.schema import Experiment, Scalar
from mathsft.config.study_schema import StudyConfig
from mathsft.errors import StudyFailedError
from mathsft.records import STATES_WITH_RESULT, Ask, Overrides, Plan, PruneVerdict, Run, RunState, Score
from mathsft.runs.final_run import closed
from mathsft.runs.new_run import new_run
from mathsft.runs.results import recorded_results
from mathsft.seeds import derive_seed
from mathsft.store.database import Database
from mathsft.store.study_store import StudyStore
from mathsft.study.components import (
    explained,
    is_complete,
    make_pruner,
    make_sampler,
    make_space,
    num_settings,
    suggest,
    tell,
)
from mathsft.study.decide import propose
from mathsft.study.parameters import parameter_names, settings_of

MAX_FAILURES = 3


class TrialEvents:
    """One event for each trial number; the events of negative numbers are set."""

    def __init__(self) -> None:
        self._events: dict[int, asyncio.Event] = {}

    def __getitem__(self, number: int) -> asyncio.Event:
        event = self._events.setdefault(number, asyncio.Event())
        if number < 0:
            event.set()
        return event


class Search:
    """A source of trials for `drive`: asks Optuna for parameters, reports scores to it, and lets its pruner stop trials.

    num_trials is the total number of finished trials, those of earlier drivers included. max_hours after this object was
    made, no new trial is proposed. The first trials have the `given` settings, where the sampler adds those that are
    missing; the last ones have the settings that `propose` returns.
    """

    def __init__(
        self,
        config: StudyConfig,
        experiment: Experiment,
        plan: Plan,
        given: Sequence[Overrides],
        store: StudyStore,
        optuna_study: optuna.Study,
        show: Callable[[Trial, Run], None],
        num_trainers: int,
    ) -> None:
        self._config, self._experiment, self._plan, self._store = config, experiment, plan, store
        self._given, self._show = given, show
        self._is_alone = num_trainers == 1
        self._deadline = math.inf if config.max_hours is None else time.monotonic() + config.max_hours * 3600
        self._space = make_space(config)
        self.study = optuna_study
        self._parameters = parameter_names(self._space, {name for trial in self._optuna_trials() for name in trial.params})
        self._asked, self._told = TrialEvents(), TrialEvents()
        self._num_failed = 0
        self._unfinished: list[Run] = []  # trials that an earlier driver began and did not end
        self._half_asked: int | None = None  # a trial without all parameters: that driver was killed
        self._take_over()

    def done(self) -> bool:
        """Return whether the budget is spent; raise StudyFailedError after MAX_FAILURES failures and no finished trial."""
        if self._is_failing():
            failed = [trial for trial in self._trials() if trial.state == "failed"]
            raise StudyFailedError(f"{self._num_failed} trials failed, none finished; the last failure: {failed[-1].reason}")
        return not self._unfinished and self._is_spent()

    async def next(self) -> Run | None:
        if self._unfinished:
            return self._unfinished.pop(0)
        number = self._num_asked()
        if self._is_alone:
            await self._told[number - 2].wait()
        if self._is_spent() or self._is_failing():
            for later in (number, number + 1):  # never asked for: nothing may wait for them
                self._asked[later].set()
            return None
        return self._store.waiting(lambda: self._ask(number))

    async def judge(self, run: Run, index: int, score: Score) -> int | None:
        """Ask the pruner; return the eval point at which the run stops, None if it goes on.

        The run stops max_unscored eval points after the judged one, since training may have come that far. With an earlier
        stop the run's end would depend on the speed of scoring, and on kills.
        """
        if self._is_alone:
            await self._told[_number(run) - 1].wait()
        verdict = self._store.waiting(lambda: self._verdict(run, index, score))
        return index + run.plan.max_unscored if verdict.is_pruned else None

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        run = closed(run, state, reason, self._store)
        self._store.write(run)  # before Optuna, which only gets a copy of this record
        self._num_failed += state == "failed"
        if self._is_alone:
            await self._asked[_number(run) + 1].wait()
        self._store.waiting(lambda: self._tell(run))

    # ---- records in Optuna

    def _take_over(self) -> None:
        """Read from Optuna which trials ended, which are unfinished, and which one lacks parameters."""
        recorded = {trial.name: trial for trial in self._trials()}
        for trial in self._optuna_trials():
            if trial.state != TrialState.RUNNING:
                self._told[trial.number].set()
            elif not is_complete(settings := settings_of(self._space, trial.params), self._space):
                self._half_asked = trial.number
                continue
            else:
                run = self._run(trial.number, settings)
                self._unfinished.append(recorded.get(run.name, run))
            self._asked[trial.number].set()
        if self._half_asked is not None and not self._is_alone:
            # Before anything is told, so that Optuna knows the same trials as at the kill.
            half_asked = self._half_asked
            self._unfinished.append(self._store.waiting(lambda: self._ask(half_asked)))

    def _ask(self, number: int) -> Run:
        """Create the trial, or draw an interrupted one's missing parameters; the sampler's seed follows from the number."""
        ask = Ask(number, self._numbers_told())
        self._store.write(ask)
        self.study.sampler = make_sampler(self._config, number)
        if fixed := self._fixed(ask):
            # enqueue_trial would create a second trial, with another number.
            named = {self._parameters[setting]: value for setting, value in fixed.items()}
            self.study.sampler = PartialFixedSampler(named, self.study.sampler)
        # An earlier driver or attempt may have created it.
        is_new = number >= len(self._optuna_trials())
        trial = explained(self.study.ask, "sampler", self._config.sampler) if is_new else self._trial(number)
        settings = explained(lambda: suggest(trial, self._space, self._parameters), "sampler", self._config.sampler)
        if self._half_asked == number:
            self._half_asked = None
        self._asked[number].set()
        return self._run(number, settings)

    def _fixed(self, ask: Ask) -> dict[str, Scalar]:
        """Return the parameters that the sampler must use: those given for the first trials, proposals for the last ones."""
        if ask.number < len(self._given):
            return dict(self._given[ask.number])
        if ask.number < self._config.num_trials - self._config.selection.num_proposed:
            return {}
        results = [result for result in recorded_results(self._store) if result.number < ask.number]
        known = [result for result in results if result.number in ask.told]
        pending = [result.run.overrides for result in results if result.number not in ask.told]
        return propose(known, self._config.search, pending)

    def _verdict(self, run: Run, index: int, score: Score) -> PruneVerdict:
        """Report a score and return the pruner's verdict; a recorded verdict is kept."""
        number = _number(run)
        trial = self._trial(number)
        if index not in self._frozen(number).intermediate_values:
            trial.report(score.accuracy, index)
        if (verdict := self._store.prune_verdict(run.name, index)) is None:
            is_bad = bool(explained(trial.should_prune, "pruner", self._config.pruner))  # numpy's
            verdict = PruneVerdict(run.name, index, self._numbers_told(), is_bad)
            self._store.write(verdict)
        return verdict

    def _tell(self, run: Run) -> None:
        number = _number(run)
        if not self._frozen(number).state.is_finished():
            self._show(self._trial(number), run)
            state = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}.get(run.state, TrialState.COMPLETE)
            tell(self.study, number, run.value if state == TrialState.COMPLETE else None, state)
        self._told[number].set()

    def _numbers_told(self) -> tuple[int, ...]:
        """Return the trials whose end Optuna knows."""
        return tuple(trial.number for trial in self._optuna_trials() if trial.state.is_finished())

    def _optuna_trials(self) -> list[FrozenTrial]:
        """Return all trials that Optuna knows, by number."""
        return self._store.waiting(lambda: self.study.get_trials(deepcopy=False))

    def _trial(self, number: int) -> Trial:
        return Trial(self.study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._optuna_trials()[number]

    def _num_asked(self) -> int:
        return len(self._optuna_trials()) - (self._half_asked is not None)

    # ---- records in the store

    def _run(self, number: int, settings: Mapping[str, Any]) -> Run:
        overrides: dict[str, Scalar] = {name: settings[name] for name in self._space if name in settings}
        return new_run(
            "trial",
            f"trial-{number}",
            experiment=self._experiment,
            overrides=overrides,
            plan=self._plan,
            seed=derive_seed(self._config.seed, "trial", number),
            number=number,
        )

    def _trials(self) -> list[Run]:
        return self._store.runs("trial")

    def _is_spent(self) -> bool:
        is_late = time.monotonic() >= self._deadline
        counted = [trial for trial in self._trials() if trial.state == "running" or trial.state in STATES_WITH_RESULT]
        is_enough = len(counted) >= self._config.num_trials
        return is_late or is_enough or self._has_tried_all(counted)

    def _has_tried_all(self, trials: Sequence[Run]) -> bool:
        """Return whether a sampler without repetition has tried all settings."""
        tried = {frozenset(trial.overrides.items()) for trial in trials}
        return self._config.sampler.name == "BruteForceSampler" and len(tried) >= num_settings(self._config.search)

    def _is_failing(self) -> bool:
        return self._num_failed >= MAX_FAILURES and not any(trial.state in STATES_WITH_RESULT for trial in self._trials())


def _number(run: Run) -> int:
    assert run.number is not None
    return run.number


# ---- Optuna's study


def optuna_storage(database: Database) -> optuna.storages.RDBStorage:
    """Return Optuna's records in a study's database."""
    return optuna.storages.RDBStorage(
        database.url.render_as_string(hide_password=False),
        engine_kwargs={"connect_args": database.connect_arguments, "pool_pre_ping": True},
    )


def open_optuna_study(config: StudyConfig, store: StudyStore) -> optuna.Study:
    """Open Optuna's study in the store's database; create it on first use."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    storage = store.waiting(lambda: optuna_storage(store.database))
    study = store.waiting(
        lambda: optuna.create_study(
            study_name=store.study,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=make_sampler(config, 0),
            pruner=make_pruner(config),
        )
    )
    store.waiting(lambda: study.set_metric_names(["accuracy"]))
    return study
