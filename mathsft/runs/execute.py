"""The one loop: executes the runs that a source proposes, trial or final, scoring each checkpoint while training goes on.

Everything it does is first looked up in the store, so that a driver that was killed goes on where it was. It decides
neither what to run nor when to stop: the source does.
"""

import json
import logging
from asyncio import Lock, Semaphore, TaskGroup
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from mathsft.errors import ErrorKind
from mathsft.records import Checkpoint, Diverged, Response, Run, RunState, Score
from mathsft.runs.context import StudyContext
from mathsft.runs.progress import following, watching
from mathsft.runs.retention import TEST_POOL, delete_weights
from mathsft.runs.worker_calls import at_work
from mathsft.runs.worker_pool import WorkerLike
from mathsft.workers.worker import Failed, RemoteError

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Proposes runs and learns how they went; every method may wait for its turn."""

    def done(self) -> bool:
        """Tell whether nothing is left to propose, now or after the runs under way."""

    async def next(self) -> Run | None:
        """Return the next run to execute, None when this round has no more."""

    async def judge(self, run: Run, index: int, score: Score) -> int | None:
        """Hear the run's score at its eval point of that index; return the eval point that need not be trained any more.

        None lets the run go on. Once a run is told where to stop, later scores of it are not heard.
        """

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        """Record how the run ended."""


async def drive(source: Source, study: StudyContext) -> None:
    """Execute all that a source proposes; a run that failed may be proposed anew in the next round."""
    while not source.done():
        async with TaskGroup() as runs:
            while True:
                trainer = await study.workers.trainers.take()  # before asking: what is proposed late knows more results
                run = await source.next()
                if run is None:
                    study.workers.trainers.give(trainer)
                    break
                study.store.write(run)
                runs.create_task(execute(run, trainer, study, source))


async def execute(run: Run, trainer: WorkerLike, study: StudyContext, source: Source) -> None:
    """Train a run to each eval point; score every checkpoint while training goes on; close it with how it ended."""
    if run.state != "running":
        study.workers.trainers.give(trainer)  # a driver died between recording the end and reporting it
        await source.close(run, run.state, run.reason)
        return
    steps, window, judging = run.eval_steps, Semaphore(run.plan.max_unscored), Lock()
    stop_at: int | None = None
    is_stopped, diverged, failed = False, "", ""

    async def score(index: int, checkpoint: Checkpoint) -> None:
        nonlocal stop_at
        score = await scored(run, checkpoint, run.plan.pool, study, trainer)
        async with judging:  # one after the other: a verdict may have to wait, and the next score must not overtake it
            if stop_at is None:
                stop_at = await source.judge(run, index, score)
        delete_weights(study.store, study.layout)
        window.release()

    try:
        async with TaskGroup() as scoring:  # left when the last score is in
            with study.workers.trainers.until_done(trainer):  # left when training ends: the next run may start
                for index, step in enumerate(steps):
                    await window.acquire()
                    if is_stopped := stop_at is not None and index >= stop_at:
                        break
                    checkpoint = recorded(run, step, study) or await trained(run, step, trainer, study)
                    if isinstance(checkpoint, Diverged):
                        diverged = checkpoint.reason
                        break
                    scoring.create_task(score(index, checkpoint))
    except* (Failed, RemoteError) as errors:
        failed = str(errors.exceptions[0])
    state: RunState = "failed" if failed else "diverged" if diverged else "pruned" if is_stopped else "finished"
    await source.close(run, state, failed or diverged)


def recorded(run: Run, step: int, study: StudyContext) -> Checkpoint | Diverged | None:
    """Return what the store has of the run at the step; None for weights that are gone although they are to be scored."""
    diverged = study.store.diverged(run.name)
    if diverged is not None and diverged.step <= step:
        return diverged
    checkpoint = study.store.checkpoint(run.name, step)
    if checkpoint is None or study.store.score(run.name, step, run.plan.pool) or study.has_weights(checkpoint):
        return checkpoint
    return None


async def trained(run: Run, step: int, trainer: WorkerLike, study: StudyContext) -> Checkpoint | Diverged:
    """Have the run trained to the step; its metrics reach the store while it trains."""
    async with following(run, study), at_work(trainer, run.name, step, "", study):
        progress = study.layout.metrics(run.name)
        outcome: Checkpoint | Diverged = await trainer.call("advance", run, step, progress=progress)
    study.store.write(outcome)
    return outcome


async def scored(
    run: Run, checkpoint: Checkpoint, pool: str, study: StudyContext, trainer: WorkerLike | None = None
) -> Score:
    """Return the checkpoint's score on a pool: the recorded one, else a new one; lost or corrupt weights are trained again.

    The run's own trainer does that where it is given, between its other calls and though it may be lent to others by now:
    its run waits for this score, so to wait for a free trainer could mean to wait for ever.
    """
    if found := study.store.score(run.name, checkpoint.step, pool):
        return found
    if study.has_weights(checkpoint):
        try:
            return await _score(run, checkpoint, pool, study)
        except RemoteError as error:
            if error.kind != ErrorKind.CHECKPOINT:
                raise
            logger.warning("%s, step %d: %s; its weights are trained again", run.name, checkpoint.step, error)
    if trainer is not None:
        again = await trained(run, checkpoint.step, trainer, study)
    else:
        async with study.workers.trainers.lease() as free_trainer:
            again = await trained(run, checkpoint.step, free_trainer, study)
    if isinstance(again, Diverged):
        raise Failed(f"{run.name} diverges at step {again.step} ({again.reason}), where it did not before")
    return await _score(run, again, pool, study)


async def _score(run: Run, checkpoint: Checkpoint, pool: str, study: StudyContext) -> Score:
    async with study.workers.evaluators.lease() as evaluator:
        async with (
            watching(checkpoint, pool, study),
            at_work(evaluator, checkpoint.run, checkpoint.step, pool, study),
        ):
            progress = study.layout.scoring(checkpoint.run, checkpoint.step, pool)
            with_gold_nll = pool == TEST_POOL or (pool == run.plan.pool and checkpoint.step == run.eval_steps[-1])
            score: Score = await evaluator.call("score", checkpoint, run.experiment, pool, with_gold_nll, progress=progress)
        # Before the evaluator is lent again: scores come in order.
        study.store.write(score, _read_responses(study.layout / score.responses_path))
    return score


def _read_responses(path: Path) -> list[Response]:
    adapter = TypeAdapter(Response)
    with path.open(encoding="utf-8") as lines:
        return [adapter.validate_python(json.loads(line)) for line in lines]
