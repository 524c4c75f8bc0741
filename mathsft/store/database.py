"""Opens a study's database: the SQLite file in its folder, or a PostgreSQL server by URL."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from mathsft.errors import UserError
from mathsft.layout import StudyLayout

STORAGE_VARIABLE = "MATHSFT_STORAGE"
"""Environment variable with the URL of a PostgreSQL database."""
LOCK_TIMEOUT_SECONDS = 60
"""Longest wait for another process that locks an SQLite file."""
CONNECT_TIMEOUT_SECONDS = 10
DRIVER = "postgresql+psycopg"
_EXAMPLE = f"{DRIVER}://USER@HOST:5432/DATABASE"


@dataclass(frozen=True)
class Database:
    """The address of the database with a study's records; `repr` and `shown` omit the password."""

    url: URL
    owner: str = field(default_factory=lambda: f"mathsft {socket.gethostname()[:30]}:{os.getpid()} {secrets.token_hex(4)}")
    """The name by which a PostgreSQL server knows this process's connections."""

    @classmethod
    def of(cls, layout: StudyLayout, storage: str | None) -> "Database":
        """Return the database of a study: `storage`, else the URL in MATHSFT_STORAGE, else the file in the study's folder.

        Raises UserError for a URL that cannot be used, and for a password in `storage`, which a file or the list of
        processes would show.
        """
        if storage is not None:
            url = _checked(storage, "storage")
            if url.password:
                raise UserError(
                    f"storage: {url.render_as_string()}: contains a password, which others could read; leave it out and use "
                    f"PGPASSWORD or ~/.pgpass, or give the whole URL in the environment variable {STORAGE_VARIABLE}"
                )
            return cls(url)
        if from_environment := os.environ.get(STORAGE_VARIABLE):
            return cls(_checked(from_environment, STORAGE_VARIABLE))
        return cls(URL.create("sqlite", database=str(layout.database)))  # a text would be decoded: "%20" is a space

    @property
    def is_server(self) -> bool:
        """Return whether the database is a PostgreSQL server, which several studies can share."""
        return self.url.drivername == DRIVER

    @property
    def shown(self) -> str:
        """Return the address without its password."""
        if not self.is_server:  # as it is: a path may have characters that a URL cannot encode
            return f"sqlite:///{self.url.database}"
        return self.url._replace(password=None).render_as_string()  # set() ignores None

    @property
    def connect_arguments(self) -> dict[str, Any]:
        """Return the arguments of every connection."""
        if not self.is_server:
            return {"timeout": LOCK_TIMEOUT_SECONDS}
        return {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": self.owner}

    def engine(self) -> Engine:
        """Return a SQLAlchemy engine. With a server it has one connection, which can hold the lock of a study."""
        if self.is_server:
            one = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}
            return create_engine(self.url, connect_args=self.connect_arguments, **one)
        engine = create_engine(self.url, connect_args=self.connect_arguments)

        @event.listens_for(engine, "connect")
        def _use_wal(connection: Any, _: Any) -> None:
            connection.execute("pragma journal_mode=wal")

        return engine

    def trouble(self, error: BaseException) -> str:
        """Return the message for the user when the database cannot be used."""
        reason = str(error).partition("\n")[0]
        advice = "make it reachable" if self.is_server else "unlock or repair it"
        return f"database {self.shown}: {reason}; {advice}, then run the same command again: no record is lost"


def is_connection_lost(error: BaseException | None) -> bool:
    """Return whether an error means that a PostgreSQL server cannot be reached now, or ended the connection."""
    if not isinstance(error, DBAPIError) or error.orig is None or not hasattr(error.orig, "sqlstate"):
        return False
    state: str | None = error.orig.sqlstate
    # Classes of https://www.postgresql.org/docs/current/errcodes-appendix.html: 08 connection exception, 57P0 shutdown and
    # start of the server, 53300 too many connections. A connection that broke or was never made has no state.
    return error.connection_invalidated or (
        type(error.orig).__name__ == "OperationalError" if state is None else state.startswith(("08", "57P0", "53300"))
    )


def _checked(text: str, origin: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise UserError(f"{origin}: no database URL (its text is not shown); write {_EXAMPLE}") from None
    if url.drivername == "postgresql":
        url = url.set(drivername=DRIVER)
    if url.drivername != DRIVER:
        raise UserError(
            f"{origin}: {url.drivername}: not supported; write {_EXAMPLE}, or nothing, for the SQLite file of the study"
        )
    if find_spec("psycopg") is None:
        raise UserError(f"{origin}: the package psycopg is missing; install it: pip install 'mathsft[postgresql]'")
    return url
