"""The one loop: executes the runs that a source proposes, trial or final, scoring each checkpoint while training goes on.

Everything it does is first looked up in the book, so that a driver that was killed goes on where it was. It decides
neither what to run nor when to stop: the source does.
"""

import json
import logging
from asyncio import Semaphore, TaskGroup
from typing import Protocol

from pydantic import TypeAdapter

from mathsft.records import Checkpoint, Response, Run, RunState, Score
from mathsft.runs.crew import Crew, WorkerLike
from mathsft.runs.progress import following, metrics_path, scoring_path, watching
from mathsft.runs.retention import TEST_POOL, delete_weights
from mathsft.runs.stints import at_work
from mathsft.store.book import Book
from mathsft.workers.worker import Failed, RemoteError

logger = logging.getLogger(__name__)

CHECKPOINT_ERROR = "CheckpointError"
"""The evaluator's word for weights that are not those that were published."""


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


async def drive(source: Source, crew: Crew, book: Book) -> None:
    """Execute all that a source proposes; a run that failed may be proposed anew in the next round."""
    while not source.done():
        async with TaskGroup() as runs:
            while True:
                trainer = await crew.trainers.take()  # before asking: what is proposed late knows more results
                run = await source.next()
                if run is None:
                    crew.trainers.give(trainer)
                    break
                book.write(run)
                runs.create_task(execute(run, trainer, crew, book, source))


async def execute(run: Run, trainer: WorkerLike, crew: Crew, book: Book, source: Source) -> None:
    """Train a run to each eval point; score every checkpoint while training goes on; close it with how it ended."""
    if run.state != "running":
        crew.trainers.give(trainer)  # a driver died between recording the end and reporting it
        await source.close(run, run.state, run.reason)
        return
    steps, window = crew.eval_steps(run), Semaphore(run.plan.max_unscored)
    stop_at: int | None = None
    is_stopped, diverged, failed = False, "", ""

    async def score(index: int, checkpoint: Checkpoint) -> None:
        nonlocal stop_at
        score = await scored(run, checkpoint, run.plan.pool, crew, book, trainer)
        if stop_at is None:
            stop_at = await source.judge(run, index, score)
        delete_weights(book, crew.study_dir)
        window.release()

    try:
        async with TaskGroup() as scoring:  # left when the last score is in
            with crew.trainers.until_done(trainer):  # left when training ends: the next run may start
                for index, step in enumerate(steps):
                    await window.acquire()
                    if is_stopped := stop_at is not None and index >= stop_at:
                        break
                    checkpoint = recorded(run, step, crew, book) or await trained(run, step, trainer, crew, book)
                    if checkpoint.diverged:
                        diverged = checkpoint.diverged
                        break
                    scoring.create_task(score(index, checkpoint))
    except* (Failed, RemoteError) as errors:
        failed = str(errors.exceptions[0])
    state: RunState = "failed" if failed else "diverged" if diverged else "pruned" if is_stopped else "finished"
    await source.close(run, state, failed or diverged)


def recorded(run: Run, step: int, crew: Crew, book: Book) -> Checkpoint | None:
    """Return the checkpoint from the book unless its weights are gone although they are still to be scored."""
    checkpoint = book.checkpoint(run.name, step)
    if checkpoint is None or checkpoint.diverged or book.score(run.name, step, run.plan.pool):
        return checkpoint
    return checkpoint if crew.has_weights(checkpoint) else None


async def trained(run: Run, step: int, trainer: WorkerLike, crew: Crew, book: Book) -> Checkpoint:
    """Have the run trained to the step; its metrics reach the book while it trains."""
    async with following(run, crew.study_dir, book), at_work(trainer, run.name, step, "", crew, book):
        progress = metrics_path(crew.study_dir, run.name)
        checkpoint: Checkpoint = await trainer.call("advance", run, step, progress=progress)
    book.write(checkpoint)
    return checkpoint


async def scored(
    run: Run, checkpoint: Checkpoint, pool: str, crew: Crew, book: Book, trainer: WorkerLike | None = None
) -> Score:
    """Return the checkpoint's score on a pool: the recorded one, else a new one; lost or corrupt weights are trained again.

    The run's own trainer does that where it is given, between its other calls and though it may be lent to others by now:
    its run waits for this score, so to wait for a free trainer could mean to wait for ever.
    """
    if found := book.score(run.name, checkpoint.step, pool):
        return found
    if crew.has_weights(checkpoint):
        try:
            return await _score(run, checkpoint, pool, crew, book)
        except RemoteError as error:
            if error.type_name != CHECKPOINT_ERROR:
                raise
            logger.warning("%s, step %d: %s; its weights are trained again", run.name, checkpoint.step, error)
    if trainer is not None:
        checkpoint = await trained(run, checkpoint.step, trainer, crew, book)
    else:
        async with crew.trainers.lease() as free_trainer:
            checkpoint = await trained(run, checkpoint.step, free_trainer, crew, book)
    return await _score(run, checkpoint, pool, crew, book)


async def _score(run: Run, checkpoint: Checkpoint, pool: str, crew: Crew, book: Book) -> Score:
    async with crew.evaluators.lease() as evaluator:
        async with (
            watching(checkpoint, pool, crew.study_dir, book),
            at_work(evaluator, checkpoint.run, checkpoint.step, pool, crew, book),
        ):
            progress = scoring_path(crew.study_dir, checkpoint.run)
            with_gold_nll = pool == TEST_POOL or (pool == run.plan.pool and checkpoint.step == crew.eval_steps(run)[-1])
            score: Score = await evaluator.call("score", checkpoint, run.overrides, pool, with_gold_nll, progress=progress)
        book.write(score, _read_responses(crew, score))  # before the evaluator is lent again: scores come in order
    return score


def _read_responses(crew: Crew, score: Score) -> list[Response]:
    adapter = TypeAdapter(Response)
    with (crew.study_dir / score.responses_path).open(encoding="utf-8") as lines:
        return [adapter.validate_python(json.loads(line)) for line in lines]
