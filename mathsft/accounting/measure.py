"""Measures the computer's speed, and the lengths of training examples, in a process like the trainer's."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mathsft.costs import Speeds
from mathsft.errors import ErrorKind, UserError
from mathsft.layout import StudyLayout
from mathsft.records import Problem
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.backend import Backend, WorkerDied
from mathsft.workers.host import Returned
from mathsft.workers.spawn import SpawnBackend

PROBE = "mathsft.training.meter.probe:Probe"
LENGTHS = "mathsft.data.lengths:Lengths"
LIMIT_SECONDS = 300
LEAST_PROBLEMS = 512
"""Enough problems for batches that differ; the largest batch is drawn without repeats, too."""


class NotMeasuredError(Exception):
    """The computer's speed could not be measured; the message is one line."""


async def measured_speeds(
    trainer: WorkerSpec,
    problems: Sequence[Problem],
    batch_sizes: Sequence[int],
    num_responses: int,
    backend: Backend | None = None,
) -> Speeds:
    """Return how fast the trainer's device trains on these problems and generates; raises NotMeasuredError, UserError."""
    problems = problems[: max(LEAST_PROBLEMS, 2 * max(batch_sizes))]
    speeds: Speeds = await _asked(trainer, PROBE, "measure", (problems, batch_sizes, num_responses), backend)
    return speeds


async def measured_lengths(trainer: WorkerSpec, problems: Sequence[Problem]) -> list[int]:
    """Return the tokens of each problem's training example, in order; raises NotMeasuredError, UserError."""
    lengths: list[int] = await _asked(trainer, LENGTHS, "measure", (problems,))
    return lengths


async def _asked(
    trainer: WorkerSpec, target: str, method: str, arguments: tuple[object, ...], backend: Backend | None = None
) -> Any:
    """Return the answer of a new process with the trainer's settings, which runs another class."""
    backend = backend or SpawnBackend()
    with TemporaryDirectory() as folder:
        settings = replace(trainer.settings, layout=StudyLayout(Path(folder)))
        [process] = backend.start(replace(trainer, target=target, settings=settings, ranks=1), "probe")
        try:
            reply = await asyncio.wait_for(process.request(method, arguments), LIMIT_SECONDS)
        except WorkerDied as death:
            raise NotMeasuredError(str(death).partition(" (log")[0]) from death
        except TimeoutError:
            raise NotMeasuredError(f"it took over {LIMIT_SECONDS} seconds") from None
        finally:
            process.kill()
    if isinstance(reply, Returned):
        return reply.value
    if reply.kind == ErrorKind.USER:
        raise UserError(reply.message)
    raise NotMeasuredError(f"{reply.type_name}: {reply.message}".partition("\n")[0])
