"""Remembers which files of weights have a known fingerprint, so that they are not hashed again on the same machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mathsft.publication import FileStamp, stamps_of
from mathsft.records import Checkpoint


class KnownFiles:
    """The files that the trainer hashed and stamped, and those that this process has hashed itself."""

    def __init__(self) -> None:
        self._hashed: dict[str, tuple[FileStamp, ...]] = {}

    @contextmanager
    def loading(self, checkpoint: Checkpoint, folder: Path) -> Iterator[bool]:
        """Yield whether the files are unchanged since they had the checkpoint's fingerprint; else the body must hash them.

        When the body ends without an error, the files are known.
        """
        try:
            found = stamps_of(folder)  # before the body reads the files: a later change gives another stamp
        except OSError:  # the engine says which file cannot be read
            found = ()
        yield bool(found) and found in (checkpoint.stamps, self._hashed.get(checkpoint.fingerprint))
        self._hashed[checkpoint.fingerprint] = found
