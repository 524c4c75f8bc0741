"""The run loop: executes the runs that a source proposes and scores each checkpoint while training goes on.

It looks up every result in the store first, so a restarted driver continues where the killed one stopped.
"""

import asyncio
import json
import logging
from asyncio import Event, Semaphore, TaskGroup
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from mathsft.errors import ErrorKind, UserError
from mathsft.records import Checkpoint, Diverged, Response, Run, RunState, Score
from mathsft.runs.context import StudyContext
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.progress import following, watching
from mathsft.runs.publishing import Publishing, published
from mathsft.runs.retention import delete_weights
from mathsft.runs.worker_calls import recording_call
from mathsft.workers.backend import WorkerDied
from mathsft.workers.worker import ATTEMPTS, Attempts, Failed, RemoteError, Worker

logger = logging.getLogger(__name__)

ARRIVAL_SECONDS, ARRIVAL_LOOK_SECONDS = 60.0, 0.2
"""Longest wait for a file that an evaluator on another machine has written, and the interval between looks for it."""


class Source(Protocol):
    """Decides which runs are executed and when each of them stops; its coroutines may wait for results of other runs."""

    def done(self) -> bool:
        """Return whether no run is left to propose, now or after the runs under way have ended."""

    async def next(self) -> Run | None:
        """Return the next run to execute; None if this round has no more."""

    async def judge(self, run: Run, index: int, score: Score) -> int | None:
        """Take the run's score at the eval point with this index; return the index of the eval point before
        which training must stop.

        None lets the run go on. After an index was returned, later scores of the run are not passed to this method.
        """

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        """Record how the run ended."""


async def drive(source: Source, study: StudyContext) -> None:
    """Execute all runs that a source proposes; a failed run may be proposed again in the next round."""
    while not source.done():
        async with TaskGroup() as runs:
            while True:
                trainer = await study.workers.trainers.take()  # first, since a later proposal can use more results
                run = await source.next()
                if run is None:
                    study.workers.trainers.give(trainer)
                    break
                study.store.write(run)
                runs.create_task(execute(run, trainer, study, source))


async def execute(run: Run, trainer: Worker, study: StudyContext, source: Source) -> None:
    """Train a run to each eval point, score its checkpoints while training goes on, and close it with its outcome."""
    if run.state != "running":
        study.workers.trainers.give(trainer)  # a driver was killed after it recorded the end and before close()
        await source.close(run, run.state, run.reason)
        return
    steps, window = run.eval_steps, Semaphore(run.plan.max_unscored)
    judged = [Event() for _ in steps]
    stop_at: int | None = None
    is_stopped, diverged, failed = False, "", ""

    async def score(index: int, trained_to: Checkpoint | Publishing) -> None:
        nonlocal stop_at
        checkpoint = await _on_disk(run, trained_to, trainer, study)
        score = await scored(run, checkpoint, run.plan.pool, study, trainer)
        if index > 0:
            await judged[index - 1].wait()  # a later checkpoint may be scored first, by another evaluator
        if stop_at is None:
            stop_at = await source.judge(run, index, score)
        judged[index].set()
        delete_weights(study.store, study.layout)
        window.release()

    try:
        async with TaskGroup() as scoring:  # ends with the last score
            with study.workers.trainers.until_done(trainer):  # ends with training: the next run may start
                for index, step in enumerate(steps):
                    await window.acquire()
                    if is_stopped := stop_at is not None and index >= stop_at:
                        break
                    trained_to = recorded(run, step, study) or await advanced(run, step, trainer, study)
                    if isinstance(trained_to, Diverged):
                        diverged = trained_to.reason
                        break
                    scoring.create_task(score(index, trained_to))
    except* (Failed, RemoteError) as errors:
        failed = str(errors.exceptions[0])
    state: RunState = "failed" if failed else "diverged" if diverged else "pruned" if is_stopped else "finished"
    await source.close(run, state, failed or diverged)


def recorded(run: Run, step: int, study: StudyContext) -> Checkpoint | Diverged | None:
    """Return the recorded checkpoint or divergence at the step; None if it has yet to be trained or its weights are lost."""
    diverged = study.store.diverged(run.name)
    if diverged is not None and diverged.step <= step:
        return diverged
    checkpoint = study.store.checkpoint(run.name, step)
    if checkpoint is None or study.store.score(run.name, step, run.plan.pool) or study.has_weights(checkpoint):
        return checkpoint
    return None


async def advanced(run: Run, step: int, trainer: Worker, study: StudyContext) -> Publishing | Diverged:
    """Train the run to the step, whose weights are then being published; its metrics reach the store while it trains."""
    async with following(run, study), recording_call(trainer, run.name, step, "", study):
        progress = study.layout.metrics(run.name)
        outcome: Checkpoint | Diverged = await trainer.call("advance", run, step, progress=progress)
        processes = trainer.processes
    if isinstance(outcome, Diverged):
        study.store.write(outcome)
        return outcome
    return Publishing(outcome, trainer, processes)


async def trained(run: Run, step: int, trainer: Worker, study: StudyContext) -> Checkpoint | Diverged:
    """Train the run to the step and wait until its weights are on disk.

    Raises Failed if the trainer's process ends ATTEMPTS times before they are.
    """
    for _ in range(ATTEMPTS):
        outcome = await advanced(run, step, trainer, study)
        if isinstance(outcome, Diverged):
            return outcome
        if checkpoint := await published(outcome, study):
            return checkpoint
    raise Failed(f"{trainer.name} died {ATTEMPTS} times while it saved step {step} of {run.name}")


async def _on_disk(run: Run, trained_to: Checkpoint | Publishing, trainer: Worker, study: StudyContext) -> Checkpoint:
    """Return the published checkpoint; train it again if the trainer's process ended before it was on disk."""
    if isinstance(trained_to, Checkpoint):
        return trained_to
    if checkpoint := await published(trained_to, study):
        return checkpoint
    logger.warning("%s, step %d: its weights are trained again", run.name, trained_to.checkpoint.step)
    return await _trained_again(run, trained_to.checkpoint.step, trainer, study)


async def _trained_again(run: Run, step: int, trainer: Worker, study: StudyContext) -> Checkpoint:
    retrained = await trained(run, step, trainer, study)
    if isinstance(retrained, Diverged):
        raise Failed(
            f"{run.name}: retraining diverges at step {retrained.step} ({retrained.reason}), the first training did not"
        )
    return retrained


async def scored(run: Run, checkpoint: Checkpoint, pool: str, study: StudyContext, trainer: Worker | None = None) -> Score:
    """Return the checkpoint's recorded score on a pool, else score it; lost or corrupt weights are trained again.

    The run's own `trainer`, if given, trains them when its present call has ended, also if another run uses it in the
    meantime. To wait for a free trainer could be a deadlock, because the run waits for this score.
    """
    if score := study.store.score(run.name, checkpoint.step, pool):
        return score
    if study.has_weights(checkpoint):
        try:
            return await _score(run, checkpoint, pool, study)
        except RemoteError as error:
            if error.kind != ErrorKind.CHECKPOINT:
                raise
            logger.warning("%s, step %d: %s; its weights are trained again", run.name, checkpoint.step, error)
    async with nullcontext(trainer) if trainer is not None else study.workers.trainers.lease() as lent_trainer:
        retrained = await _trained_again(run, checkpoint.step, lent_trainer, study)
    return await _score(run, retrained, pool, study)


async def score_last(name: str, pool: str, study: StudyContext) -> None:
    """Score the last checkpoint of a recorded run on a pool, unless it has a score there."""
    run = study.store.run(name)
    assert run is not None
    await scored(run, study.store.checkpoints(name)[-1], pool, study)


async def _score(run: Run, checkpoint: Checkpoint, pool: str, study: StudyContext) -> Score:
    """Return the checkpoint's score by a free evaluator; if its process dies, another one scores it."""
    progress = study.layout.scoring(checkpoint.run, checkpoint.step, pool)
    with_gold_nll = pool == TEST_POOL or (pool == run.plan.pool and checkpoint.step == run.eval_steps[-1])
    attempts, dead = Attempts("score", study.workers.limits, progress), None
    while True:
        async with study.workers.evaluators.lease(avoided=dead) as evaluator, watching(checkpoint, pool, study):
            try:
                async with recording_call(evaluator, checkpoint.run, checkpoint.step, pool, study):
                    arguments = checkpoint, run.experiment, pool, with_gold_nll
                    score: Score = await evaluator.call_once(attempts, "score", *arguments)
            except WorkerDied as death:
                dead = evaluator
                attempts.add(evaluator.name, death)  # while there is the file that shows whether this one got further
            else:
                # Before the evaluator is given back, so that one evaluator's scores are recorded in order.
                study.store.write(score, await _read_responses(study.layout / score.responses_path))
                return score


async def _read_responses(path: Path) -> list[Response]:
    """Return the responses in a file, which may take a moment to arrive if another machine wrote it to a shared disk.

    Raises UserError if it does not arrive.
    """
    adapter, ends = TypeAdapter(Response), asyncio.get_running_loop().time() + ARRIVAL_SECONDS
    while not path.exists() and asyncio.get_running_loop().time() < ends:
        await asyncio.sleep(ARRIVAL_LOOK_SECONDS)
    if not path.exists():
        raise UserError(
            f"{path}: an evaluator wrote this file, and it is not there after {ARRIVAL_SECONDS:g} s; check the disk of the "
            "study's folder, then run the same command again: no record is lost"
        )
    with path.open(encoding="utf-8") as lines:
        return [adapter.validate_python(json.loads(line)) for line in lines]
