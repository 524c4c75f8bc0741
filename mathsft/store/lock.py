"""The locks that let only one driver at a time write to a study: on its folder, and on its rows in a PostgreSQL database."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

from mathsft.errors import UserError
from mathsft.layout import StudyLayout

_LOCK_CLASS = 77_115
"""The first half of the lock's key. The second half is a hash of the study's name."""
_MAX_ATTEMPTS = 3
_HOLDER = """
    select held.pid, coalesce(nullif(activity.application_name, ''), 'another process')
    from pg_locks as held left join pg_stat_activity as activity on activity.pid = held.pid
    where held.locktype = 'advisory' and held.granted
      and held.database = (select oid from pg_database where datname = current_database())
      and held.classid = %s::bigint::oid and held.objid = (hashtext(%s)::bigint & 4294967295)::oid
"""


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


def lock_connections(engine: Engine, owner: str, study: str) -> None:
    """Make every new connection of a PostgreSQL engine take the study's lock, which lasts as long as the connection.

    A transaction can thus only run while this process holds the lock, also after a lost connection. A connection raises
    UserError if another process holds the lock, and names that process.
    """

    @event.listens_for(engine, "connect")
    def _lock(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            for _attempt in range(_MAX_ATTEMPTS):
                cursor.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (_LOCK_CLASS, study))
                [is_ours] = cursor.fetchone()
                if is_ours:
                    break
                cursor.execute(_HOLDER, (_LOCK_CLASS, study))
                pid, holder = cursor.fetchone() or (None, "another process")
                if holder != owner:
                    raise UserError(
                        f"study {study}: {holder} is already using it in this database; wait for it or end it, "
                        "then run the same command again"
                    )
                # The server has not noticed yet that our former connection broke.
                cursor.execute("select pg_terminate_backend(%s, 5000)", (pid,))
            else:
                raise UserError(f"study {study}: its lock in the database cannot be taken; run the same command again")
        connection.rollback()  # ends the transaction of these statements; the lock belongs to the session
