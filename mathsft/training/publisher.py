"""Saves and hashes a trainer's checkpoints in a thread, one at a time, while training goes on."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from mathsft.data.weights import fingerprint
from mathsft.errors import ErrorKind
from mathsft.layout import StudyLayout
from mathsft.publication import Publication, stamps_of, tell

logger = logging.getLogger(__name__)

Write: TypeAlias = Callable[[Mapping[str, Tensor], Path], None]


class Publisher:
    """Publishes one checkpoint after the other, and tells the driver in a file when it is complete or has failed."""

    def __init__(self, layout: StudyLayout) -> None:
        self._layout = layout
        self._thread = ThreadPoolExecutor(1, "publisher")
        self._present: tuple[str, Future[None]] | None = None
        """The run and the result of the latest checkpoint."""

    def start(self, run: str, step: int, tensors: Mapping[str, Tensor], write: Write) -> None:
        """Begin to publish the tensors, on the host, which must not change; wait for the checkpoint before it.

        `write` writes them as a folder.

        Raises that one's error if it is of the same run.
        """
        self.wait()
        self.check(run)
        told = self._layout.publication(run, step)
        told.unlink(missing_ok=True)  # of an earlier life
        self._present = run, self._thread.submit(self._publish, tensors, self._layout.checkpoint(run, step), told, write)

    def wait(self) -> None:
        """Wait until nothing is being published."""
        if self._present is not None:
            self._present[1].exception()

    def check(self, run: str) -> None:
        """Raise the error with which the latest checkpoint could not be published, if it is the run's."""
        if self._present is not None and self._present[0] == run and self._present[1].done():
            self._present[1].result()

    def _publish(self, tensors: Mapping[str, Tensor], folder: Path, told: Path, write: Write) -> None:
        try:
            write(tensors, folder)
            stamps = stamps_of(folder)  # before the hash: a later change gives another stamp
            publication = Publication(fingerprint(folder), stamps)
        except Exception as error:
            logger.exception("%s cannot be published", folder)
            kind = ErrorKind.of(error)
            text = str(error) if kind == ErrorKind.USER else f"{type(error).__name__}: {error}"
            tell(Publication(error=text, error_kind=kind), told)
            raise
        tell(publication, told)
