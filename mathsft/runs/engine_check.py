"""Checks, before anything is scored, that the engines compute what the trainer does, before and after a swap."""

import shutil
from asyncio import TaskGroup

from mathsft.errors import StudyFailedError
from mathsft.layout import ENGINE_CHECK
from mathsft.records import Checkpoint, EngineCheck
from mathsft.runs.context import StudyContext
from mathsft.runs.worker_calls import announcing_call
from mathsft.workers.worker import Failed, RemoteError, Worker


async def check_engine(study: StudyContext) -> None:
    """Compare trainer and engines on the base weights and on changed weights; training goes on meanwhile, scoring waits.

    Raises UserError if they disagree, StudyFailedError if a worker fails.
    """
    pool = study.workers.evaluators
    evaluators = [await pool.take() for _ in range(pool.size)]  # all of them, so that nothing is scored before the check
    try:
        async with study.workers.trainers.lease() as trainer:
            with announcing_call(trainer, ENGINE_CHECK, 0, "", study.store):
                published: tuple[Checkpoint, ...] = await trainer.call("publish_for_check")
        async with TaskGroup() as checks:
            for evaluator in evaluators:
                checks.create_task(_check(evaluator, published, study))
    except* (Failed, RemoteError) as errors:
        raise StudyFailedError(f"the engine could not be checked: {errors.exceptions[0]}") from errors
    finally:
        shutil.rmtree(study.layout.engine_checks, ignore_errors=True)
    for evaluator in evaluators:
        pool.give(evaluator)  # only after all checks: an engine that failed must not score


async def _check(evaluator: Worker, published: tuple[Checkpoint, ...], study: StudyContext) -> None:
    with announcing_call(evaluator, ENGINE_CHECK, 0, ENGINE_CHECK, study.store):
        check: EngineCheck = await evaluator.call("check_engine", *published)
    study.store.announce(check)
