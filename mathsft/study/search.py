"""Everything Optuna: which trials exist, their parameters, what the pruner says, what the dashboard shows.

Optuna owns the trials' numbers and parameters; the store owns what became of them, and `tell` only repeats it.

With one trainer ask(n) waits until trial n-2 was told, trial n is told only after ask(n+1), and the pruner judges trial n only
after trial n-1 was told. So each of them sees the same trials whatever the timing, and a study that was killed proposes what
an undisturbed one does. With several trainers such waiting would leave them idle. There nobody waits: each ask and each
verdict of the pruner is recorded with the trials that it saw, a driver that goes on after a kill keeps the recorded
verdicts, and `tests/study/test_replay.py` computes every ask and every verdict of a study again from its records.
"""

import asyncio
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from mathsft.config.schema import Experiment, Scalar, StudyConfig
from mathsft.errors import StudyFailedError, UserError
from mathsft.records import FINISHED, Ask, Overrides, Plan, PruneVerdict, Run, RunState, Score
from mathsft.runs.final_run import closed
from mathsft.runs.new_run import new_run
from mathsft.runs.results import recorded_results
from mathsft.seeds import derive_seed
from mathsft.store.study_store import LOCK_TIMEOUT_SECONDS, StudyStore
from mathsft.study.components import explained, make_pruner, make_sampler, make_space, num_settings, tell
from mathsft.study.decide import propose

MAX_FAILURES = 3


class TrialEvents:
    """Events by trial number; those before the first trial have happened."""

    def __init__(self) -> None:
        self._events: dict[int, asyncio.Event] = {}

    def __getitem__(self, number: int) -> asyncio.Event:
        event = self._events.setdefault(number, asyncio.Event())
        if number < 0:
            event.set()
        return event


class Search:
    """A source of trials for `drive`: asks Optuna what to try, reports to it, and lets its pruner stop trials.

    num_trials counts finished trials in all, earlier drivers' included; max_hours after it was made nothing new is
    proposed. The first trials have the given settings (what these leave open, the
    sampler fills in), the last ones try where the surface through the trials so far may be highest.
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
        self._asked, self._told = TrialEvents(), TrialEvents()
        self._num_failed = 0
        self._left: list[Run] = []  # trials that an earlier driver left under way
        self._half_asked: int | None = None  # the trial that it was asking for when it was killed
        self._take_over()

    def done(self) -> bool:
        """Tell whether the budget is spent; raises StudyFailedError where all that the first trials did was fail."""
        if self._is_failing():
            failed = [trial for trial in self._trials() if trial.state == "failed"]
            raise StudyFailedError(f"{self._num_failed} trials failed and none finished; the last: {failed[-1].reason}")
        return not self._left and self._is_spent()

    async def next(self) -> Run | None:
        if self._left:
            return self._left.pop(0)
        number = self._num_asked()
        if self._is_alone:
            await self._told[number - 2].wait()
        if self._is_spent() or self._is_failing():
            for later in (number, number + 1):  # nobody need wait for their asking
                self._asked[later].set()
            return None
        with told_to_user(self._store):
            return self._ask(number)

    async def judge(self, run: Run, index: int, score: Score) -> int | None:
        """Ask the pruner. Training is max_unscored eval points ahead by then, so that a late verdict stops nothing.

        To stop a run the sooner its scoring happens to be fast would make its end depend on who is faster, and on kills.
        """
        number = _number(run)
        if self._is_alone:
            await self._told[number - 1].wait()
        with told_to_user(self._store):
            trial = self._trial(number)
            if index not in self._frozen(number).intermediate_values:
                trial.report(score.accuracy, index)
            if (verdict := self._store.prune_verdict(run.name, index)) is None:
                is_bad = explained(trial.should_prune, "pruner", self._config.pruner)
                verdict = PruneVerdict(run.name, index, self._numbers_told(), is_bad)
                self._store.write(verdict)
        return index + run.plan.max_unscored if verdict.is_pruned else None

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        run = closed(run, state, reason, self._store)
        self._store.write(run)  # ours first: what Optuna is told is its projection
        self._num_failed += state == "failed"
        if self._is_alone:
            await self._asked[_number(run) + 1].wait()
        with told_to_user(self._store):
            self._tell(run)

    # ---- what Optuna knows

    def _take_over(self) -> None:
        """Find what earlier drivers told, left under way, and did not finish asking for."""
        ours = {trial.name: trial for trial in self._trials()}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state != TrialState.RUNNING:
                self._told[trial.number].set()
            elif len(trial.params) < len(self._space):
                self._half_asked = trial.number
                continue
            else:
                run = self._run(trial.number, trial.params)
                self._left.append(ours.get(run.name, run))
            self._asked[trial.number].set()
        if self._half_asked is not None and not self._is_alone:
            # At once, while Optuna knows what it knew at the kill.
            with told_to_user(self._store):
                self._left.append(self._ask(self._half_asked))

    def _ask(self, number: int) -> Run:
        """Create the trial, or end the asking that was cut short; the sampler's seed follows from the trial's number."""
        ask = self._store.ask(number) or Ask(number, self._numbers_told())
        self._store.write(ask)
        self.study.sampler = make_sampler(self._config, number)
        if fixed := self._fixed(ask):
            # Not enqueue_trial: a waiting trial takes a number of its own.
            self.study.sampler = PartialFixedSampler(fixed, self.study.sampler)
        if self._half_asked == number:
            self._half_asked = None
            params = explained(lambda: self._suggested(number), "sampler", self._config.sampler)
        else:
            params = explained(lambda: self.study.ask(self._space), "sampler", self._config.sampler).params
        self._asked[number].set()
        return self._run(number, params)

    def _suggested(self, number: int) -> dict[str, Any]:
        trial = self._trial(number)
        return {name: trial._suggest(name, given) for name, given in self._space.items()}

    def _fixed(self, ask: Ask) -> dict[str, Scalar]:
        """Return the settings that the sampler does not choose: given ones at the start, the surface's proposals at the end."""
        if ask.number < len(self._given):
            return dict(self._given[ask.number])
        if ask.number < self._config.num_trials - self._config.selection.num_proposed:
            return {}
        results = [result for result in recorded_results(self._store) if result.number < ask.number]
        known = [result for result in results if result.number in ask.told]
        pending = [result.run.overrides for result in results if result.number not in ask.told]
        return propose(known, self._config.search, pending)

    def _tell(self, run: Run) -> None:
        number = _number(run)
        if not self._frozen(number).state.is_finished():
            self._show(self._trial(number), run)
            state = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}.get(run.state, TrialState.COMPLETE)
            tell(self.study, number, run.value if state == TrialState.COMPLETE else None, state)
        self._told[number].set()

    def _numbers_told(self) -> tuple[int, ...]:
        """Return the trials whose end Optuna knows."""
        return tuple(trial.number for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished())

    def _trial(self, number: int) -> Trial:
        return Trial(self.study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _num_asked(self) -> int:
        return len(self.study.get_trials(deepcopy=False)) - (self._half_asked is not None)

    # ---- what the store knows

    def _run(self, number: int, params: Mapping[str, Any]) -> Run:
        overrides: dict[str, Scalar] = {name: params[name] for name in self._space}
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
        counted = [trial for trial in self._trials() if trial.state == "running" or trial.state in FINISHED]
        is_enough = len(counted) >= self._config.num_trials
        return is_late or is_enough or self._has_tried_all(counted)

    def _has_tried_all(self, trials: Sequence[Run]) -> bool:
        """Tell whether a sampler that repeats nothing has nothing left to try."""
        tried = {frozenset(trial.overrides.items()) for trial in trials}
        return self._config.sampler.name == "BruteForceSampler" and len(tried) >= num_settings(self._config.search)

    def _is_failing(self) -> bool:
        return self._num_failed >= MAX_FAILURES and not any(trial.state in FINISHED for trial in self._trials())


def _number(run: Run) -> int:
    assert run.number is not None
    return run.number


@contextmanager
def told_to_user(store: StudyStore) -> Iterator[None]:
    """Turn Optuna's trouble with the database into a UserError, as the store does with its own."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(store.trouble(error.__cause__ or error)) from error


# ---- Optuna's objects from the study file


def open_optuna_study(config: StudyConfig, store: StudyStore) -> optuna.Study:
    """Open the study in the store's own database, made on first use."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    url = store.engine.url
    arguments = {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS}} if url.drivername.startswith("sqlite") else {}
    storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=arguments)
    with told_to_user(store):
        study = optuna.create_study(
            study_name=store.study,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=make_sampler(config, 0),
            pruner=make_pruner(config),
        )
        study.set_metric_names(["accuracy"])
    return study
