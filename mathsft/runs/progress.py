"""Reads workers' progress files while they grow: training steps are recorded, scoring progress is announced."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import TypeAdapter

from mathsft.records import Checkpoint, Run, Scoring, StepMetrics
from mathsft.runs.context import StudyContext

POLL_SECONDS = 0.5


class MetricsTail:
    """Passes on the complete lines that a metrics file gained since the last time.

    It counts lines, not bytes: a run that starts again writes the same steps to the same lines.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._num_read = path, 0
        self._adapter = TypeAdapter(StepMetrics)

    def pass_on(self, write: Callable[[list[StepMetrics]], None]) -> None:
        """Call `write` with the new steps; they stay new if it raises."""
        lines = _complete_lines(self._path)
        write([self._adapter.validate_python(json.loads(line)) for line in lines[self._num_read :]])
        self._num_read = len(lines)


def _complete_lines(path: Path) -> list[bytes]:
    return path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []


@asynccontextmanager
async def following(run: Run, study: StudyContext) -> AsyncIterator[None]:
    """Write the run's new steps to the store while the body runs, and the last ones when it ends."""
    tail = MetricsTail(study.layout.metrics(run.name))
    try:
        async with polling(lambda: tail.pass_on(study.store.write_metrics), POLL_SECONDS):
            yield
    finally:
        tail.pass_on(study.store.write_metrics)


@asynccontextmanager
async def watching(checkpoint: Checkpoint, pool: str, study: StudyContext) -> AsyncIterator[None]:
    """Announce the progress of the checkpoint's scoring on the pool while the body runs."""
    path = study.layout.scoring(checkpoint.run, checkpoint.step, pool)
    path.unlink(missing_ok=True)  # left by an interrupted scoring

    def look() -> None:
        if lines := _complete_lines(path):
            study.store.announce(TypeAdapter(Scoring).validate_python(json.loads(lines[-1])))

    try:
        async with polling(look, POLL_SECONDS):
            yield
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def polling(look: Callable[[], Awaitable[None] | None], seconds: float) -> AsyncIterator[None]:
    """Call `look` at this interval while the body runs, first after one interval; if it is a coroutine, wait for it."""

    async def poll() -> None:
        while True:
            await asyncio.sleep(seconds)
            if (looking := look()) is not None:
                await looking

    task = asyncio.create_task(poll())
    try:
        yield
    finally:
        task.cancel()
