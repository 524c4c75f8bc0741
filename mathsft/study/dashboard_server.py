"""Serves optuna-dashboard for the studies of one or several databases, on loopback and only for reading."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from io import UnsupportedOperation
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO, NoReturn, TypeAlias
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.store.database import Database
from mathsft.study.search import optuna_storage
from mathsft.study.studies_storage import StudiesStorage

HOST, PORT = "127.0.0.1", 8080
LOCAL_NAMES = (HOST, "localhost", "[::1]")
"""Names by which a browser on this machine may ask. Any other name is that of a foreign page that points to this machine."""
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

Environment: TypeAlias = dict[str, Any]
Start: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Shown:
    """A study that the dashboard shows: its folder, and the database with its records."""

    layout: StudyLayout
    database: Database


class DashboardServer(ThreadingMixIn, WSGIServer):
    """An HTTP server that answers several requests at a time; its threads end with the process."""

    daemon_threads = True

    @property
    def address(self) -> str:
        """Return the address of the front page."""
        return f"http://{HOST}:{self.server_port}/"

    def address_of(self, study: str) -> str:
        """Return the address of a study's page."""
        return f"{self.address}studies/{quote(study)}"


def dashboard_server(studies: Sequence[Shown], port: int | None = None) -> DashboardServer:
    """Return a server that listens on loopback; `serve_forever` answers requests.

    Without a port it takes PORT, or any free one if PORT is taken. Raises UserError if the given port cannot be used.
    """
    page = _Page(studies)
    wanted = [PORT, 0] if port is None else [port]
    for number in wanted:
        try:
            return make_server(HOST, number, page, server_class=DashboardServer, handler_class=_Quiet)
        except OSError as error:
            if number == wanted[-1]:
                raise UserError(f"--port {port}: {os.strerror(error.errno or 0)}; choose another port") from error
    raise AssertionError("unreachable")


class _Quiet(WSGIRequestHandler):
    """Answers requests without a line for each on the terminal."""

    def log_message(self, *_: Any) -> None:
        pass


class _Artifacts:
    """The artifacts of several studies, by their ids, which are unique. They can only be read."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._stores = [FileSystemArtifactStore(folder) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        for store in self._stores:
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(f"there is no artifact {artifact_id}")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedOperation("the artifacts of a study can only be read here")

    write = remove = _refuse


class _Page:
    """optuna-dashboard for reading, with the addresses that the notes link to: /studies/NAME, …/trials/N and …/report."""

    def __init__(self, studies: Sequence[Shown]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._layouts = {shown.layout.root.name: shown.layout for shown in studies}
        storages: Mapping[str, RDBStorage] = {
            key: optuna_storage(shown.database) for key, shown in {one.database.shown: one for one in studies}.items()
        }
        self._storage = StudiesStorage(list(storages.values()), self._layouts)
        folders = [layout.artifacts for layout in self._layouts.values()]
        self._dashboard = wsgi(self._storage, artifact_store=_Artifacts(folders))

    def __call__(self, environ: Environment, start: Start) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", "")).rpartition(":")[0] or str(environ.get("HTTP_HOST", ""))
        path = str(environ.get("PATH_INFO", "")).encode("latin-1").decode(errors="replace")  # WSGI gives bytes as latin-1
        if host not in LOCAL_NAMES:
            return _answer(start, HTTPStatus.FORBIDDEN, "text/plain", b"mathsft answers only on this machine")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            refusal = b"mathsft shows studies for reading: the records must not change"
            return _answer(start, HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", refusal)
        if path.startswith("/studies/"):
            return self._linked(path.removeprefix("/studies/"), start)
        answer: Iterable[bytes] = self._dashboard(environ, start)
        return answer

    def _linked(self, path: str, start: Start) -> Iterable[bytes]:
        """Answer an address of a note: a study's report, or a redirection to the dashboard's page of a study or trial."""
        name, _, rest = path.partition("/")
        if name in self._layouts and rest == "report" and self._layouts[name].report_page.is_file():
            page = self._layouts[name].report_page.read_bytes()
            return _answer(start, HTTPStatus.OK, "text/html; charset=utf-8", page, REPORT_POLICY)
        kind, _, number = rest.partition("/")
        if name not in self._layouts or kind not in ("", "trials") or not re.fullmatch("[0-9]*", number):
            return _answer(start, HTTPStatus.NOT_FOUND, "text/plain", b"there is no such study, trial or report")
        study = f"/dashboard/studies/{self._storage.get_study_id_from_name(name)}"
        start("302 Found", [("Location", f"{study}/trials?numbers={number}" if number else study)])
        return []


def _answer(start: Start, status: HTTPStatus, kind: str, body: bytes, policy: str = "") -> list[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start(f"{status.value} {status.phrase}", headers + ([("Content-Security-Policy", policy)] if policy else []))
    return [body]
