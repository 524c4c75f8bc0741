"""Has the engine checked before it scores anything: does it compute what the trainer does, before and after a swap?"""

import shutil

from mathsft.errors import StudyFailedError
from mathsft.records import ENGINE_CHECK, Checkpoint, EngineCheck
from mathsft.runs.crew import Crew
from mathsft.runs.stints import announced
from mathsft.store.book import Book
from mathsft.workers.worker import Failed, RemoteError


async def check_engine(crew: Crew, book: Book) -> None:
    """Compare trainer and engine on the base weights and on changed ones; training goes on meanwhile, scoring waits.

    Raises UserError where they disagree, StudyFailedError where one of them cannot be asked.
    """
    evaluator = await crew.evaluators.take()  # before the first checkpoint is scored
    try:
        async with crew.trainers.lease() as trainer:
            with announced(trainer, ENGINE_CHECK, 0, "", book):
                pair: tuple[Checkpoint, Checkpoint] = await trainer.call("publish_for_check")
        with announced(evaluator, ENGINE_CHECK, 0, ENGINE_CHECK, book):
            found: EngineCheck = await evaluator.call("check_engine", *pair)
    except (Failed, RemoteError) as error:
        raise StudyFailedError(f"the engine could not be checked: {error}") from error
    finally:
        shutil.rmtree(crew.study_dir / ENGINE_CHECK, ignore_errors=True)
    crew.evaluators.give(evaluator)  # only now: an engine that failed scores nothing
    book.announce(found)
