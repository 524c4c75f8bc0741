"""Tells the terminal how the runs go: a line for each event and, on a terminal, a moving line below. Decides nothing."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment, Scalar
from mathsft.objective import accuracy_interval
from mathsft.records import FINISHED, Checkpoint, Promotion, Run, Score, Scoring, StepMetrics
from mathsft.store.book import Book, News

REFRESHES_PER_SECOND = 4
BAR_WIDTH = 24
PARTING = "  "


class LiveProgress:
    """An observer of the book that writes to a rich console, for a study of num_trials trials or one final run.

    It is a context manager; outside of it no moving line is shown. The time left is what the rest takes at the pace so far,
    counted from the first score and the first optimizer step, whichever is later: workers and engine, for which training
    waits, take their time to start but once.
    """

    def __init__(
        self,
        console: Console,
        book: Book,
        num_trials: int,
        experiment: Experiment,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._book, self._num_trials, self._experiment = console, book, num_trials, experiment
        self._clock, self._start = clock, clock()
        self._runs = {run.name: run for run in book.runs()}
        self._last_steps = {name: metrics[-1] for name in self._runs if (metrics := book.metrics(name))}
        self._shown_run: Run | None = None  # the one that stepped last
        self._scoring: Scoring | None = None  # under way
        self._is_scoring = False  # this process's engine is up
        self._pace_start: tuple[float, float] | None = None  # the clock and the share done when it also trained
        self._best = ""
        self._queue = ""  # how many of the final run's checkpoints are published and not yet scored
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            starting = Text("starting the workers", style="dim")
            self._live = Live(starting, console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def notify(self, record: News) -> None:
        """Show a new record."""
        match record:
            case Run():
                self._runs[record.name] = record
                self._tell_run(record)
            case StepMetrics():
                self._take_step(record)
            case Checkpoint():
                self._tell_checkpoint(record)
            case Scoring():
                self._scoring = record
            case Score():
                self._scoring = None
                self._tell_score(record)
            case Promotion():
                self._tell("promoted", record.run, record.reason)
        if self._live is not None and self._shown_run is not None:
            self._live.update(self._moving_line(self._shown_run))

    # ---- events

    def _tell_run(self, run: Run) -> None:
        if run.state == "running":
            self._tell(run.name, *(f"{_short(name)} {_value(value)}" for name, value in run.overrides.items()), "started")
            return
        self._find_best(run)
        value = f"{run.value:.1%}" if run.value is not None else ""
        reason = next(iter(run.reason.splitlines()), "")
        self._tell(run.name, f"{run.state} {value}".strip(), reason, self._best, self._time_left(run))

    def _tell_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._count_queue(self._runs[checkpoint.run])
        if checkpoint.diverged or checkpoint.step == 0:
            return  # its run's end says more; nothing was trained
        last = self._last_steps.get(checkpoint.run)
        loss = f"loss {last.loss:.4f}" if last is not None else ""
        run = self._runs[checkpoint.run]
        self._tell(run.name, self._step_of(run, checkpoint.step), "trained", loss, self._queue)

    def _tell_score(self, score: Score) -> None:
        run = self._runs[score.run]
        self._is_scoring = True
        self._start_pace()
        self._find_best(run)
        self._count_queue(run)
        interval = accuracy_interval(score)
        accuracy = f"{score.accuracy:.1%} ({interval.low:.1%} – {interval.high:.1%}) on {score.pool}"
        form = f"format {score.format_accuracy:.1%}"
        progress = (self._queue, self._best, self._time_left(run)) if _is_final(run) else ()
        self._tell(run.name, self._step_of(run, score.step), accuracy, form, *progress)

    def _take_step(self, metrics: StepMetrics) -> None:
        self._shown_run = self._runs[metrics.run]
        self._start_pace()
        self._last_steps[metrics.run] = metrics

    def _tell(self, *parts: str) -> None:
        line = PARTING.join([f"[{self._clock() - self._start:7.1f}s]", *(part for part in parts if part)])
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    # ---- how far, how good, how long

    def _find_best(self, run: Run) -> None:
        """Note the best trial, or the best step of a final run on the pool that watches it."""
        if run.number is not None:
            found = [
                (trial.value, trial.name) for trial in self._runs.values() if trial.number is not None and _counts(trial)
            ]
        else:
            scores = self._book.scores(run.name, run.plan.pool) if _is_final(run) else []
            found = [(score.accuracy, f"step {score.step}") for score in scores]
        if found:
            value, name = max(found, key=lambda pair: pair[0] or 0.0)
            self._best = f"best so far {name} {value:.1%}"

    def _count_queue(self, run: Run) -> None:
        """Note how many checkpoints of a final run wait for their score on its own pool, the one being scored included."""
        if _is_final(run):
            published = {checkpoint.step for checkpoint in self._book.checkpoints(run.name) if not checkpoint.diverged}
            num_waiting = len(published - {score.step for score in self._book.scores(run.name, run.plan.pool)})
            self._queue = f"{num_waiting} to score" if num_waiting else ""

    def _share_done(self, run: Run) -> float:
        """Return the share of this process's work that is done: of a final run's steps, else of the study's trials."""
        if _is_final(run):
            return self._share_trained(run)
        trials = [trial for trial in self._runs.values() if trial.number is not None]
        return min(1.0, sum(self._share_trained(trial) for trial in trials) / self._num_trials)

    def _share_trained(self, run: Run) -> float:
        if run.state != "running":
            return 1.0 if run.state in FINISHED else 0.0  # a failed trial is made good by another one
        last = self._last_steps.get(run.name)
        return last.step / self._num_steps(run) if last is not None else 0.0

    def _start_pace(self) -> None:
        """Count the pace from now on, unless it is counted already or this process has yet to train or to score."""
        if self._pace_start is None and self._is_scoring and self._shown_run is not None:
            self._pace_start = (self._clock(), self._share_done(self._shown_run))

    def _time_left(self, run: Run) -> str:
        if self._pace_start is None:
            return ""
        start, share_before = self._pace_start
        share, elapsed = self._share_done(run), self._clock() - start
        if not share_before < share < 1:
            return ""
        return f"about {_duration(elapsed * (1 - share) / (share - share_before))} left"

    def _num_steps(self, run: Run) -> int:
        return run.plan.num_steps(apply_overrides(self._experiment, run.overrides).training.batch_size)

    def _step_of(self, run: Run, step: int) -> str:
        return f"step {step}/{self._num_steps(run)}"

    def _moving_line(self, run: Run) -> RenderableType:
        """Return the line below the events: how far all is, the last step, queue and scoring, the best, the time left."""
        last = self._last_steps[run.name]
        step, loss = self._step_of(run, last.step), f"loss {last.loss:.4f}"
        scoring = _progress(self._scoring) if self._scoring is not None else ""
        shown = (run.name, step, loss, self._queue, scoring, self._best, self._time_left(run))
        parts = [part for part in shown if part]
        line = Table.grid(padding=(0, 1))
        line.add_row(
            ProgressBar(total=1.0, completed=self._share_done(run), width=BAR_WIDTH),
            Text(PARTING.join(parts), no_wrap=True, overflow="ellipsis"),
        )
        return line


def _progress(scoring: Scoring) -> str:
    return f"scoring {scoring.run} step {scoring.step}: {scoring.num_finished} of {scoring.num_responses}"


def _is_final(run: Run) -> bool:
    return run.name.startswith("final-")


def _counts(trial: Run) -> bool:
    """Tell whether the trial can be the best one: only those that were trained to the end."""
    return trial.state == "finished" and trial.value is not None


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _value(value: Scalar) -> str:
    return f"{value:.2e}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
