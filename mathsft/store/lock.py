"""The lock that lets one driver at a time write into a study's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mathsft.errors import UserError
from mathsft.layout import StudyLayout


@contextmanager
def locked(layout: StudyLayout) -> Iterator[None]:
    """Hold a study for this process; the kernel lets go of it however the process ends.

    Raises UserError naming the process that holds it.
    """
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        file = layout.lock.open("a+")
    except OSError as error:
        raise UserError(
            f"study folder {layout.root}: cannot be written ({error.strerror}); start from a folder of your own"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"study folder {layout.root}: process {holder} is already at work there; wait for it or end it, "
                "then run the same command again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
