"""How commands end: exit codes, and the errors that reach the user as one line; everything else is a bug of ours."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; what was asked for failed; yours to mend; stopped by you, to be gone on with."""


class UserError(Exception):
    """Something only the user can mend: the message says what, the offending value and what to change.

    `cli` prints the message without a traceback and exits with code 2, wherever the error was raised, a worker process
    included.
    """


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the weights that the engine had before still are."""


class ErrorKind(StrEnum):
    """What the driver has to know of an error that a worker's process raised."""

    USER = "user"
    CHECKPOINT = "checkpoint"
    CODE = "code"

    @classmethod
    def of(cls, error: Exception) -> "ErrorKind":
        """Return the kind of an error."""
        kinds = ((UserError, cls.USER), (CheckpointError, cls.CHECKPOINT))
        return next((kind for error_class, kind in kinds if isinstance(error, error_class)), cls.CODE)


class StudyFailedError(Exception):
    """The first trials of a study all failed: going on would burn the budget. `cli` exits with code 1."""


@contextmanager
def told_if_disk_full(path: Path, needed: str) -> Iterator[None]:
    """Run the body, which writes to path; if the disk is full, raise a UserError that says where and what is needed."""
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise UserError(f"{path}: the disk is full; free {needed}, then run the same command again") from error


def _is_disk_full(error: Exception) -> bool:
    # safetensors writes in Rust, which gives the error number as text only.
    return any(
        getattr(error, "errno", None) == number or f"(os error {number})" in str(error)
        for number in (errno.ENOSPC, errno.EDQUOT)
    )
