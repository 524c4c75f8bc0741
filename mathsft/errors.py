"""Exit codes, and the errors that the command line reports in one line. Any other error that a user sees is a bug."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: success; the work failed; the user must correct something; interrupted with Ctrl-C."""


class UserError(Exception):
    """An error that only the user can correct. The message says what is wrong, the offending value and what to change.

    `cli` prints the message without a traceback and exits with code 2, also if a worker process raised the error.
    """


class CheckpointError(Exception):
    """The engine cannot load a checkpoint. It continues to serve the weights that it had before."""


class ErrorKind(StrEnum):
    """The kind of an error in a worker process, which decides how the driver reacts to it."""

    USER = "user"
    CHECKPOINT = "checkpoint"
    CODE = "code"

    @classmethod
    def of(cls, error: Exception) -> "ErrorKind":
        """Return the kind of an error."""
        if isinstance(error, UserError):
            return cls.USER
        return cls.CHECKPOINT if isinstance(error, CheckpointError) else cls.CODE


class StudyFailedError(Exception):
    """The first trials of a study all failed, so that more trials would waste the budget. `cli` exits with code 1."""


def excerpt(value: object) -> str:
    """Return the value as text for an error message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextmanager
def disk_full_as_user_error(path: Path, needed: str) -> Iterator[None]:
    """Run the body, which writes to `path`. If the disk is full, raise a UserError with the path and what is `needed`."""
    try:
        yield
    except Exception as error:
        # safetensors writes in Rust: its errors contain the error number only as text.
        if not any(
            getattr(error, "errno", None) == number or f"(os error {number})" in str(error)
            for number in (errno.ENOSPC, errno.EDQUOT)
        ):
            raise
        raise UserError(f"{path}: the disk is full; free {needed}, then run the same command again") from error
