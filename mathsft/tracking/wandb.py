"""Shows runs in Weights & Biases: one W&B run per run, written by the driver only.

W&B is called in a separate thread, so that a slow or dead server cannot delay the driver. Its exceptions are logged once
per type and otherwise ignored, since the store has every number.
"""

import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import psutil

from mathsft.config.load import flatten
from mathsft.config.study_schema import WandbSettings
from mathsft.layout import StudyLayout
from mathsft.records import STATES_WITH_RESULT, Run, Score, StepMetrics, WorkerCall
from mathsft.store.study_store import Notification, StudyStore
from mathsft.workers.spawn import environment

if TYPE_CHECKING:
    from wandb import Run as WandbRun

log = logging.getLogger(__name__)

CACHE_FOLDER = "XDG_CACHE_HOME"
INIT_SECONDS = 15
"""Limit for the server's answer when a run is opened."""
CLOSE_SECONDS = 60
"""Limit for the last uploads at the end of the study."""

NOT_CORRECT = ("wrong_answer", "format_failure", "ungraded")

_RowKey: TypeAlias = tuple[str, int]
"""("train", step) for an optimizer step, (pool, step) for a score."""


class WandbObserver:
    """An observer of the store that logs each run's steps and scores to a separate W&B run, below layout.wandb.

    A row's number in W&B is its number among the run's rows in the store, so a new driver continues the count. Mode
    "online" becomes "offline", with one warning, if there is no key or no server at the start. `close` finishes all W&B
    runs and ends the service process within about `close_seconds`.
    """

    def __init__(
        self, store: StudyStore, layout: StudyLayout, settings: WandbSettings, close_seconds: float = CLOSE_SECONDS
    ) -> None:
        assert settings.mode != "disabled"
        self._close_seconds = close_seconds
        self._runs = {run.name: run for run in store.runs()}
        self._rows = {name: _recorded_rows(store, name) for name in self._runs}
        self._evaluators: dict[tuple[str, int, str], str] = {}
        self._open_runs = _OpenRuns(store.study, layout, settings.project, settings.mode)
        self._tasks: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name="wandb", daemon=True)
        self._thread.start()

    def notify(self, record: Notification) -> None:
        """Queue a new record for W&B and return at once."""
        if isinstance(record, Run):
            self._runs[record.name] = record
            self._tasks.put(partial(self._open_runs.open if record.state == "running" else self._open_runs.finish, record))
        elif isinstance(record, StepMetrics):
            self._log(record.run, ("train", record.step), "train", _train_values(record))
        elif isinstance(record, WorkerCall) and record.pool:
            self._evaluators[record.run, record.step, record.pool] = record.worker
        elif isinstance(record, Score):
            section = "eval" if record.pool == self._runs[record.run].plan.pool else f"eval-{record.pool}"
            self._log(record.run, (record.pool, record.step), section.replace(":", "-"), self._eval_values(record))

    def close(self) -> None:
        """Finish every W&B run and end W&B's service process; kill it after `close_seconds`."""
        self._tasks.put(self._open_runs.close)
        self._tasks.put(None)
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            log.warning("W&B did not end within %g s: rows not yet uploaded are in its offline files", self._close_seconds)
            _kill_service()

    def _eval_values(self, score: Score) -> dict[str, float | str]:
        """Return the values of a score, with the name of the evaluator, whose call is recorded just before the score."""
        evaluator = self._evaluators.pop((score.run, score.step, score.pool), None)
        return _eval_values(score) | ({"evaluator": evaluator} if evaluator is not None else {})

    def _log(self, run: str, key: _RowKey, section: str, values: Mapping[str, float | str]) -> None:
        rows = self._rows.setdefault(run, set())
        if key in rows:
            return  # the step was trained again: W&B has its row
        rows.add(key)
        row: dict[str, float | str] = {
            "train_step": key[1],
            **{f"{section}/{name}": value for name, value in values.items()},
        }
        self._tasks.put(partial(self._open_runs.log, self._runs[run], section, row, len(rows)))


class _OpenRuns:
    """The open W&B runs; only the observer's thread uses this object."""

    def __init__(self, study: str, layout: StudyLayout, project: str, mode: Literal["offline", "online"]) -> None:
        self._study, self._layout, self._project = study, layout, project
        self._mode = mode
        self._is_mode_decided = mode == "offline"
        self._open: dict[str, tuple[Run, WandbRun | None]] = {}

    def open(self, run: Run) -> "WandbRun | None":
        """Return the run's open W&B run, opened if it was not; None if W&B raised an exception."""
        if run.name not in self._open:
            self._open[run.name] = (run, None)  # W&B may raise one now; it is not asked again
            with _folder_for_logs(self._layout.wandb):
                self._open[run.name] = (run, self._start(run))
        return self._open[run.name][1]

    def log(self, run: Run, section: str, row: dict[str, float | str], number: int) -> None:
        """Log a row under its number; a finished W&B run is opened again."""
        if (opened := self.open(run)) is not None:
            opened.define_metric(f"{section}/*", step_metric="train_step")  # a late score is shown at its own step
            opened.log(row, step=number)

    def finish(self, run: Run) -> None:
        """Finish the run's W&B run with the run's state, also if nothing was logged."""
        opened = self.open(run)
        del self._open[run.name]
        if opened is not None:
            opened.summary.update({"state": run.state, "reason": run.reason})
            opened.finish(exit_code=0 if run.state in STATES_WITH_RESULT else 1)

    def close(self) -> None:
        """Finish all open W&B runs and end W&B's service process."""
        import wandb

        try:
            for run, opened in self._open.values():
                if opened is not None:
                    opened.finish(exit_code=0 if run.state in STATES_WITH_RESULT else 1)
        finally:
            wandb.teardown()

    def _start(self, run: Run) -> "WandbRun":
        import wandb

        if not self._is_mode_decided:
            self._is_mode_decided = True
            try:
                if not has_api_key():  # init would ask for a key on the terminal
                    raise ConnectionError("mode is online, but there is no API key (WANDB_API_KEY or `wandb login`)")
                return self._init(run)
            except Exception as error:  # W&B raises exceptions of many types
                self._mode = "offline"
                log.warning("W&B: %s; runs are logged offline, `wandb sync` uploads them later", _first_line(error))
            wandb.teardown()  # the failed attempt still holds the run's id
        return self._init(run)

    def _init(self, run: Run) -> "WandbRun":
        import wandb

        plan = {"run.seed": run.seed, "run.num_examples": run.plan.num_examples, "run.pool": run.plan.pool}
        return wandb.init(
            project=self._project,
            group=self._study,
            name=run.name,
            id=re.sub(r"[^A-Za-z0-9_-]", "-", f"{self._study}-{run.name}"),
            job_type=run.kind,
            config={**flatten(run.experiment), **plan},
            mode=self._mode,
            dir=self._layout.root,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                init_timeout=INIT_SECONDS,
                finish_timeout=CLOSE_SECONDS / 2,
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
            ),
        )


def has_api_key() -> bool:
    """Return whether W&B has an API key of the user: in WANDB_API_KEY or from `wandb login`. The server is not asked."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return wandb.login(prompt=False, verify=False)


def _work(tasks: "queue.Queue[Callable[[], object] | None]") -> None:
    """Execute the tasks in order until None comes."""
    logged: set[type[Exception]] = set()
    while (task := tasks.get()) is not None:
        try:
            task()
        except Exception as error:  # the study goes on, whatever W&B raises
            if type(error) not in logged:
                log.warning("W&B: %s: %s; repetitions are not shown", type(error).__name__, _first_line(error))
            logged.add(type(error))


def _folder_for_logs(folder: Path) -> AbstractContextManager[None]:
    """Set a cache folder while the body starts W&B's service, for users without a home.

    The service asks Go's os.UserCacheDir for the folder of its log. Without a folder it writes the log to the terminal.
    """
    has_folder = "HOME" in os.environ or CACHE_FOLDER in os.environ
    return environment({} if has_folder else {CACHE_FOLDER: str(folder)})


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _kill_service() -> None:
    """Kill W&B's service process: at exit W&B would wait for it without limit."""
    for child in psutil.Process().children():
        if "wandb-core" in child.name():
            child.kill()
            child.wait(5)


def _recorded_rows(store: StudyStore, run: str) -> set[_RowKey]:
    steps: set[_RowKey] = {("train", metrics.step) for metrics in store.metrics(run)}
    return steps | {(score.pool, score.step) for score in store.scores(run)}


def _train_values(metrics: StepMetrics) -> dict[str, float]:
    """Return all measurements of the step that are known."""
    known = {name: value for name, value in asdict(metrics).items() if value is not None}
    return {name: value for name, value in known.items() if name not in ("run", "step")}


def _eval_values(score: Score) -> dict[str, float | str]:
    """Return the shares of the responses by category, the number of problems, and the costs."""
    num_responses = sum(score.counts.values())
    shares = {category: score.counts[category] / num_responses for category in NOT_CORRECT}
    return {
        "accuracy": score.accuracy,
        "format_accuracy": score.format_accuracy,
        **shares,
        "num_problems": score.num_problems,
        **{f"{activity}_seconds": seconds for activity, seconds in score.costs.seconds.items()},
        "num_response_tokens": score.costs.num_response_tokens,
        "peak_memory_bytes": score.costs.peak_memory_bytes,
    }
