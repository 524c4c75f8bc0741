"""Remembers which files of weights have a known fingerprint, so that they are not hashed again on the same machine.

On another machine than the trainer's it waits until the files that it sees have the fingerprint.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mathsft.data.weights import fingerprint
from mathsft.publication import FileStamp, machine_id, stamps_of
from mathsft.records import Checkpoint

logger = logging.getLogger(__name__)

ARRIVAL_SECONDS = 60.0
"""How long a network disk may take to show files of another machine; the default of NFS is up to a minute (acdirmax)."""
LOOK_SECONDS = 0.2


class KnownFiles:
    """The files that the trainer hashed and stamped, and those that this process has hashed itself."""

    def __init__(self, arrival_seconds: float = ARRIVAL_SECONDS) -> None:
        self._hashed: dict[str, tuple[FileStamp, ...]] = {}
        self._arrival_seconds = arrival_seconds

    @contextmanager
    def loading(self, checkpoint: Checkpoint, folder: Path) -> Iterator[bool]:
        """Yield whether the files are unchanged since they had the checkpoint's fingerprint; else the body must hash them.

        When the body ends without an error, the files are known.
        """
        if any(stamp.machine != machine_id() for stamp in checkpoint.stamps) and checkpoint.fingerprint not in self._hashed:
            self._wait(checkpoint, folder)
        try:
            found = stamps_of(folder)  # before the body reads the files: a later change gives another stamp
        except OSError:  # the engine says which file cannot be read
            found = ()
        yield bool(found) and found in (checkpoint.stamps, self._hashed.get(checkpoint.fingerprint))
        self._hashed[checkpoint.fingerprint] = found

    def _wait(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Wait until the files have the checkpoint's fingerprint, or for arrival_seconds: then the body will refuse them."""
        ends = time.monotonic() + self._arrival_seconds
        while True:
            with suppress(OSError, ValueError):  # a file that is not there yet, or is empty
                found = stamps_of(folder)
                if fingerprint(folder) == checkpoint.fingerprint:
                    self._hashed[checkpoint.fingerprint] = found
                    return
            if time.monotonic() >= ends:
                logger.warning("%s: the files of another machine did not arrive in %g s", folder, self._arrival_seconds)
                return
            time.sleep(LOOK_SECONDS)
