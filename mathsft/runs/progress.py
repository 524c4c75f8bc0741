"""Carries what workers append to their files to the store while they do: steps to be kept, a scoring to be seen."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import TypeAdapter

from mathsft.records import Checkpoint, Run, Scoring, StepMetrics
from mathsft.runs.context import StudyContext

POLL_SECONDS = 0.5


class MetricsTail:
    """Reads what a metrics file gained since the last look, whole lines only.

    It counts lines, not bytes: a run that begins anew writes the same steps into the same lines again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._num_read = path, 0
        self._adapter = TypeAdapter(StepMetrics)

    def read(self) -> list[StepMetrics]:
        """Return the new steps."""
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        lines = whole.splitlines()
        new = lines[self._num_read :]
        self._num_read = len(lines)
        return [self._adapter.validate_python(json.loads(line)) for line in new]


def last_scoring(path: Path) -> Scoring | None:
    """Return what the file's last whole line tells, None where there is none."""
    if not path.exists():
        return None
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = whole.splitlines()
    return TypeAdapter(Scoring).validate_python(json.loads(lines[-1])) if lines else None


@asynccontextmanager
async def following(run: Run, study: StudyContext) -> AsyncIterator[None]:
    """Write the run's steps to the store while the body waits for the trainer, the last ones when it ends."""
    tail = MetricsTail(study.layout.metrics(run.name))
    try:
        async with polling(lambda: study.store.write_metrics(tail.read()), POLL_SECONDS):
            yield
    finally:
        study.store.write_metrics(tail.read())


@asynccontextmanager
async def watching(checkpoint: Checkpoint, pool: str, study: StudyContext) -> AsyncIterator[None]:
    """Announce how far the checkpoint's scoring on the pool is while the body waits for the evaluator."""
    path = study.layout.scoring(checkpoint.run, checkpoint.step, pool)
    path.unlink(missing_ok=True)  # a scoring that was broken off left it

    def look() -> None:
        if scoring := last_scoring(path):
            study.store.announce(scoring)

    try:
        async with polling(look, POLL_SECONDS):
            yield
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def polling(look: Callable[[], None], seconds: float) -> AsyncIterator[None]:
    """Look again and again while the body runs, the first time after so many seconds."""

    async def poll() -> None:
        while True:
            await asyncio.sleep(seconds)
            look()

    task = asyncio.create_task(poll())
    try:
        yield
    finally:
        task.cancel()
