"""Has the engines checked before they score anything: do they compute what the trainer does, before and after a swap?"""

import shutil
from asyncio import TaskGroup

from mathsft.errors import StudyFailedError
from mathsft.records import ENGINE_CHECK, Checkpoint, EngineCheck
from mathsft.runs.context import StudyContext
from mathsft.runs.worker_calls import announced
from mathsft.runs.worker_pool import WorkerLike
from mathsft.workers.worker import Failed, RemoteError


async def check_engine(study: StudyContext) -> None:
    """Compare trainer and engines on the base weights and on changed ones; training goes on meanwhile, scoring waits.

    Raises UserError where they disagree, StudyFailedError where one of them cannot be asked.
    """
    lent = study.workers.evaluators
    evaluators = [await lent.take() for _ in range(lent.size)]  # before the first checkpoint is scored
    try:
        async with study.workers.trainers.lease() as trainer:
            with announced(trainer, ENGINE_CHECK, 0, "", study.store):
                pair: tuple[Checkpoint, Checkpoint] = await trainer.call("publish_for_check")
        async with TaskGroup() as checks:
            for evaluator in evaluators:
                checks.create_task(_check(evaluator, pair, study))
    except* (Failed, RemoteError) as errors:
        raise StudyFailedError(f"the engine could not be checked: {errors.exceptions[0]}") from errors
    finally:
        shutil.rmtree(study.layout.engine_checks, ignore_errors=True)
    for evaluator in evaluators:
        lent.give(evaluator)  # only now: an engine that failed scores nothing


async def _check(evaluator: WorkerLike, pair: tuple[Checkpoint, Checkpoint], study: StudyContext) -> None:
    with announced(evaluator, ENGINE_CHECK, 0, ENGINE_CHECK, study.store):
        found: EngineCheck = await evaluator.call("check_engine", *pair)
    study.store.announce(found)
