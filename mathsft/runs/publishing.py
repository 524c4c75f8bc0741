"""Waits for checkpoints that a trainer publishes while it trains on, and records them."""

import asyncio
from dataclasses import dataclass, replace

from mathsft.errors import ErrorKind, UserError
from mathsft.publication import heard
from mathsft.records import Checkpoint
from mathsft.runs.context import StudyContext
from mathsft.workers.backend import WorkerProcess
from mathsft.workers.worker import Failed, RemoteError, Worker

POLL_SECONDS = 0.05
"""Interval between looks: scoring waits for them, and a look takes some microseconds."""


@dataclass(frozen=True)
class Publishing:
    """A checkpoint that processes of a trainer have begun to publish."""

    checkpoint: Checkpoint
    """It has no fingerprint yet."""
    trainer: Worker
    processes: tuple[WorkerProcess, ...]


async def published(publishing: Publishing, study: StudyContext) -> Checkpoint | None:
    """Wait until the checkpoint is on disk, record it and return it; None if its processes ended before.

    Raises UserError or RemoteError if the weights could not be saved, and Failed if that takes longer than
    limits.hang_seconds.
    """
    checkpoint, trainer, limit = publishing.checkpoint, publishing.trainer, study.workers.limits.hang_seconds
    path, began = study.layout.publication(checkpoint.run, checkpoint.step), asyncio.get_running_loop().time()
    while True:
        is_served = trainer.is_served_by(publishing.processes)
        if (publication := heard(path)) is not None:
            break
        if not is_served:
            return None
        if asyncio.get_running_loop().time() - began > limit:
            raise Failed(
                f"{trainer.name}: step {checkpoint.step} of {checkpoint.run} was not on disk after {limit:g} s "
                "(limits.hang_seconds)"
            )
        await asyncio.sleep(POLL_SECONDS)
    if publication.error_kind == ErrorKind.USER:
        raise UserError(publication.error)
    if publication.error:
        raise RemoteError(f"{trainer.name}: {checkpoint.path}: {publication.error}", publication.error_kind)
    checkpoint = replace(checkpoint, fingerprint=publication.fingerprint, stamps=publication.stamps)
    study.store.write(checkpoint)
    return checkpoint
