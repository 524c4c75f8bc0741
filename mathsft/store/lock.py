"""The lock that lets only one driver at a time write to a study's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mathsft.errors import UserError
from mathsft.layout import StudyLayout


def lock_holder(layout: StudyLayout) -> str | None:
    """Return the id of the process that holds the study's lock, "unknown" if it cannot be read, or None if nobody does."""
    try:
        file = layout.lock.open()
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None


@contextmanager
def locked(layout: StudyLayout) -> Iterator[None]:
    """Hold the study's lock while the body runs; the kernel releases it when the process ends for any reason.

    Raises UserError that names the process which holds the lock.
    """
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        file = layout.lock.open("a+")
    except OSError as error:
        raise UserError(
            f"study folder {layout.root}: cannot be written ({error.strerror}); start in a folder that you may write to"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"study folder {layout.root}: process {holder} is already using it; wait for it or end it, "
                "then run the same command again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
