"""How commands end: exit codes, and the errors that reach the user as one line; everything else is a bug of ours."""

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; what was asked for failed; yours to mend; stopped by you, to be gone on with."""


class UserError(Exception):
    """Something only the user can mend: the message says what, the offending value and what to change.

    `cli` prints the message without a traceback and exits with code 2, wherever the error was raised, a worker process
    included.
    """


class StudyFailedError(Exception):
    """The first trials of a study all failed: going on would burn the budget. `cli` exits with code 1."""
