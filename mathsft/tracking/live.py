"""Shows the runs on the terminal: writes a line for each event, and updates the progress that the heartbeat shows."""

from dataclasses import replace
from typing import Self

from mathsft import formats
from mathsft.layout import ENGINE_CHECK
from mathsft.objective import accuracy_interval
from mathsft.records import (
    STATES_WITH_RESULT,
    Checkpoint,
    EngineCheck,
    OngoingCall,
    Promotion,
    Run,
    Score,
    Scoring,
    StepMetrics,
    WorkerCall,
)
from mathsft.runs.weak_signal import weak_signal
from mathsft.store.study_store import Notification, StudyStore
from mathsft.tracking.heartbeat import Activity, Heartbeat, Progress


class LiveProgress:
    """An observer of the store that shows a study of num_trials trials, or one final run, on a heartbeat.

    It is a context manager; outside of it the heartbeat shows no progress. The time left is extrapolated from the pace
    since the first score or the first optimizer step, whichever is later: the start of workers and engine happens only
    once, and training waits for it.
    """

    def __init__(self, heartbeat: Heartbeat, store: StudyStore, num_trials: int) -> None:
        self._heartbeat, self._store, self._num_trials = heartbeat, store, num_trials
        self._runs = {run.name: run for run in store.runs()}
        self._last_steps = {name: metrics[-1] for name in self._runs if (metrics := store.metrics(name))}
        self._calls: dict[str, tuple[OngoingCall, float]] = {}  # by worker, each with its start
        self._shown_run: Run | None = None  # the run of the latest optimizer step
        self._scoring: dict[tuple[str, int, str], Scoring] = {}  # not yet complete, by run, step and pool
        self._scored_by = ""  # the worker of the latest scoring call, which is recorded just before its score
        self._evaluators: set[str] = set()  # their names are shown if there are several
        self._is_scoring = False  # the engine of this process has scored something
        self._pace_start: tuple[float, float] | None = None  # time and share done when both training and scoring ran
        self._best = ""
        self._is_weakness_told = False
        self._queue = ""  # the number of the final run's published checkpoints without a score

    def __enter__(self) -> Self:
        self._heartbeat.show(self._progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.show(Progress())

    def notify(self, record: Notification) -> None:
        """Show a new record."""
        match record:
            case Run():
                self._runs[record.name] = record
                self._tell_run(record)
            case StepMetrics():
                self._take_step(record)
            case Checkpoint():
                self._tell_checkpoint(record)
            case OngoingCall():
                self._take_call(record)
            case Scoring():
                self._scoring[record.run, record.step, record.pool] = record
                self._note_start(record.run, record.pool, record.step)
            case WorkerCall() if record.pool:
                self._scored_by = record.worker
            case Score():
                self._scoring.pop((record.run, record.step, record.pool), None)
                self._tell_score(record)
            case EngineCheck():
                self._tell_check(record)
            case Promotion():
                self._heartbeat.tell("promoted", record.run, record.reason)
        self._heartbeat.show(self._progress())

    # ---- events

    def _tell_run(self, run: Run) -> None:
        if run.state == "running":
            settings = (f"{name.rpartition('.')[2]} {formats.value(value, '.2e')}" for name, value in run.overrides.items())
            self._heartbeat.tell(run.name, *settings, "started")
            return
        self._note_results(run)
        value = f"{run.value:.1%}" if run.value is not None else ""
        reason = next(iter(run.reason.splitlines()), "")
        self._heartbeat.tell(run.name, f"{run.state} {value}".strip(), reason, self._best, self._time_left(run))
        if run.kind == "trial" and not self._is_weakness_told and (weakness := weak_signal(self._store)):
            self._is_weakness_told = True
            self._heartbeat.tell(weakness)

    def _tell_checkpoint(self, checkpoint: Checkpoint) -> None:
        run, last = self._runs[checkpoint.run], self._last_steps.get(checkpoint.run)
        self._note_results(run)
        if checkpoint.step == 0:
            return  # nothing was trained
        loss = f"loss {last.loss:.4f}" if last is not None else ""
        self._heartbeat.tell(run.name, _step_of(run, checkpoint.step), "trained", loss, self._queue)

    def _tell_score(self, score: Score) -> None:
        run = self._runs[score.run]
        self._is_scoring = True
        self._start_pace()
        self._note_results(run)
        interval = accuracy_interval(score)
        accuracy = f"{score.accuracy:.1%} ({interval.low:.1%} – {interval.high:.1%}) on {score.pool}"
        form = f"format {score.format_accuracy:.1%}"
        by = f"by {self._scored_by}" if len(self._evaluators) > 1 else ""
        progress = (self._queue, self._best, self._time_left(run)) if run.kind == "final" else ()
        self._heartbeat.tell(run.name, _step_of(run, score.step), accuracy, form, by, *progress)

    def _tell_check(self, check: EngineCheck) -> None:
        when = "before and after swaps" if check.load == "swap" else "in a new engine for every checkpoint"
        self._heartbeat.tell(
            f"vLLM and the trainer agree on this {check.model_kind} {when}: log probabilities differ by at most "
            f"{check.nats:.1g} nats per token"
        )

    def _take_step(self, metrics: StepMetrics) -> None:
        self._shown_run = self._runs[metrics.run]
        self._start_pace()
        self._last_steps[metrics.run] = metrics
        self._note_start(metrics.run, "")

    def _take_call(self, call: OngoingCall) -> None:
        if call.is_over:
            self._calls.pop(call.worker, None)
        else:
            self._calls[call.worker] = (call, self._heartbeat.clock())
            if call.pool:
                self._evaluators.add(call.worker)

    def _note_start(self, run: str, pool: str, step: int | None = None) -> None:
        """Note that the worker that trains the run, or scores its step on the pool, has loaded model and libraries."""
        for worker, (call, since) in self._calls.items():
            if (call.run, call.pool) == (run, pool) and step in (None, call.step):
                self._calls[worker] = (replace(call, is_starting=False), since)

    # ---- results, progress, time left

    def _note_results(self, run: Run) -> None:
        """Note the best trial; of a final run its best step on its own pool, and how many checkpoints wait for a score."""
        scored: list[tuple[float, str]] = []
        if run.kind == "trial":
            ended = [trial for trial in self._trials() if trial.state == "finished"]
            scored = [(trial.value, trial.name) for trial in ended if trial.value is not None]
        elif run.kind == "final":
            scores = self._store.scores(run.name, run.plan.pool)
            scored = [(score.accuracy, f"step {score.step}") for score in scores]
            published = {checkpoint.step for checkpoint in self._store.checkpoints(run.name)}
            num_waiting = len(published - {score.step for score in scores})  # the one being scored included
            self._queue = f"{num_waiting} to score" if num_waiting else ""
        if scored:
            value, name = max(scored, key=lambda pair: pair[0])
            self._best = f"best so far {name} {value:.1%}"

    def _share_done(self, run: Run) -> float:
        """Return the share that is done: of the final run's steps, else of the study's trials."""
        if run.kind == "final":
            return self._share_trained(run)
        return min(1.0, sum(map(self._share_trained, self._trials())) / self._num_trials)

    def _trials(self) -> list[Run]:
        return [run for run in self._runs.values() if run.kind == "trial"]

    def _share_trained(self, run: Run) -> float:
        if run.state != "running":
            return 1.0 if run.state in STATES_WITH_RESULT else 0.0  # a failed trial is replaced by another
        last = self._last_steps.get(run.name)
        return last.step / run.num_steps if last is not None else 0.0

    def _start_pace(self) -> None:
        """Begin to measure the pace when this process has both trained and scored."""
        if self._pace_start is None and self._is_scoring and self._shown_run is not None:
            self._pace_start = (self._heartbeat.clock(), self._share_done(self._shown_run))

    def _time_left(self, run: Run) -> str:
        if self._pace_start is None:
            return ""
        start, share_before = self._pace_start
        share, elapsed = self._share_done(run), self._heartbeat.clock() - start
        if not share_before < share < 1:
            return ""
        return f"about {formats.rough_seconds(elapsed * (1 - share) / (share - share_before))} left"

    # ---- activities

    def _progress(self) -> Progress:
        activities = tuple(Activity(self._words(call), since) for call, since in self._calls.values())
        progress, run = Progress(activities, facts=(self._queue, self._best)), self._shown_run
        return replace(progress, share_done=self._share_done(run), time_left=self._time_left(run)) if run else progress

    def _words(self, call: OngoingCall) -> str:
        if call.is_starting:
            return f"starting {call.worker} ({'torch, vLLM and its engine' if call.pool else 'torch and the model'})"
        by = f"{call.worker}: " if call.pool and len(self._evaluators) > 1 else ""
        if call.run == ENGINE_CHECK:
            return f"{by}checking the engine"
        if call.pool:
            return f"{by}scoring {call.run} step {call.step}{self._how_far(call)}"
        last = self._last_steps.get(call.run)
        if last is None:
            return f"preparing {call.run}"
        return f"training {call.run}: {_step_of(self._runs[call.run], last.step)}, loss {last.loss:.4f}"

    def _how_far(self, call: OngoingCall) -> str:
        scoring = self._scoring.get((call.run, call.step, call.pool))
        return f": {scoring.num_finished} of {scoring.num_responses}" if scoring is not None else ""


def _step_of(run: Run, step: int) -> str:
    return f"step {step}/{run.num_steps}"
