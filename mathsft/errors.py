"""How commands end: exit codes, and the one error that is the user's to mend; everything else is ours."""

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; what was asked for failed; yours to mend; stopped by you, to be gone on with."""


class UserError(Exception):
    """Something only the user can mend: the message says what, the offending value and what to change.

    `cli` prints the message without a traceback and exits with code 2, wherever the error was raised, a worker process
    included.
    """
