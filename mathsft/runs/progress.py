"""Carries a worker's metrics file into the book while the worker writes it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import TypeAdapter

from mathsft.records import Run, StepMetrics
from mathsft.store.book import Book

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


def metrics_path(study_dir: Path, run: str) -> Path:
    """Return the file to which the trainer appends a line for every step of the run."""
    return study_dir / "runs" / run / "metrics.jsonl"


@asynccontextmanager
async def following(run: Run, study_dir: Path, book: Book) -> AsyncIterator[None]:
    """Write the run's steps to the book while the body waits for the trainer, the last ones when it ends."""
    tail = MetricsTail(metrics_path(study_dir, run.name))

    async def follow() -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            book.write_metrics(tail.read())

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        book.write_metrics(tail.read())
