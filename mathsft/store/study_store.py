"""The store: all records of a study in its own database, which only the driver writes.

`write` persists a record and then notifies the observers; writing an equal record again does nothing. An observer's error is
logged and does not stop the study.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from sqlalchemy import Connection, delete, insert, make_url, select, update
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from mathsft.config.load import differences
from mathsft.errors import UserError
from mathsft.records import (
    Ask,
    Checkpoint,
    Diverged,
    EngineCheck,
    OngoingCall,
    Problem,
    Promotion,
    Provenance,
    PruneVerdict,
    Quality,
    Response,
    Run,
    RunKind,
    Score,
    Scoring,
    Session,
    StepMetrics,
    WorkerCall,
)
from mathsft.store import tables
from mathsft.store.database import Database, is_connection_lost
from mathsft.store.lock import lock_connections
from mathsft.store.revisions import upgrade

log = logging.getLogger(__name__)

Record: TypeAlias = (
    Quality
    | Run
    | Provenance
    | StepMetrics
    | Checkpoint
    | Diverged
    | Score
    | WorkerCall
    | Session
    | Ask
    | PruneVerdict
    | Promotion
)
Announcement: TypeAlias = Scoring | OngoingCall | EngineCheck
"""Announced to observers while it lasts, and not persisted."""
Notification: TypeAlias = Record | Announcement
Result = TypeVar("Result")
LONGEST_WAIT_SECONDS = 3600.0
"""How long the driver waits for a database server that cannot be reached, before it ends with an error."""


class Observer(Protocol):
    """Is notified of every new or changed record, after it is committed, and of announcements."""

    def notify(self, record: Notification) -> None: ...


_TABLES: Mapping[type[Any], tables.RecordTable] = {
    Quality: tables.qualities,
    Run: tables.runs,
    Provenance: tables.provenances,
    StepMetrics: tables.metrics,
    Checkpoint: tables.checkpoints,
    Diverged: tables.diverged,
    Score: tables.scores,
    WorkerCall: tables.worker_calls,
    Session: tables.sessions,
    Ask: tables.asks,
    PruneVerdict: tables.prune_verdicts,
    Promotion: tables.promotions,
}


class StudyStore:
    """One study's records in its database.

    A lost connection to a database server is no error: the call waits and runs again, since writing an equal record again
    does nothing. Raises UserError when the database cannot be used: of another schema, locked, or out of reach for an hour.
    """

    def __init__(self, database: Database, study: str) -> None:
        self.database, self.study = database, study
        self.engine = database.engine()
        self.observers: list[Observer] = []
        self._is_open = False

    @classmethod
    def open(cls, database: Database | str, study: str, is_driver: bool = False) -> Self:
        """Open the store of a study, whose database is given by address or URL, and create its tables if there are none.

        With a database server, a driver locks the study. With SQLite, the lock is that of the study's folder.
        """
        database = Database(make_url(database)) if isinstance(database, str) else database
        store = cls(database, study)
        if is_driver and database.is_server:
            lock_connections(store.engine, database.owner, study)
        store._within(lambda connection: upgrade(connection, database.shown))
        store._is_open = True
        return store

    @property
    def url(self) -> str:
        """Return the database's address without its password."""
        return self.database.shown

    @classmethod
    def studies(cls, database: Database) -> list[str]:
        """Return the names of all studies with settings in a database."""
        query = select(tables.studies.c.study).order_by("study")
        with closing(cls.open(database, "")) as store:
            return store._within(lambda connection: list(connection.scalars(query)))

    def close(self) -> None:
        self.engine.dispose()

    # ---- the study's settings

    def check(self, settings: Mapping[str, Any], bound: tuple[str, ...] = ("",)) -> None:
        """Raise UserError that names the settings changed since the study's first run: its results must stay comparable.

        Only names that start with one of `bound` are compared.
        """
        recorded = (self.settings() if self.runs() else None) or settings
        old, new = ({k: v for k, v in compared.items() if k.startswith(bound)} for compared in (recorded, settings))
        if changed := differences(old, new):
            raise UserError(
                f"study {self.study} began with other settings ({'; '.join(changed)}); "
                "set them back, or copy the study file to another name to begin a new study"
            )

    def record_settings(self, settings: Mapping[str, Any]) -> None:
        """Record the study's resolved settings by dotted name."""

        def replace(connection: Connection) -> None:
            connection.execute(delete(tables.studies).where(tables.studies.c.study == self.study))
            connection.execute(insert(tables.studies).values(study=self.study, settings=dict(settings)))

        self._within(replace)

    def settings(self) -> dict[str, Any] | None:
        """Return the study's resolved settings by dotted name; None before they are recorded."""
        query = select(tables.studies.c.settings).where(tables.studies.c.study == self.study)
        return self._within(lambda connection: connection.scalar(query))

    # ---- problems

    def record_problems(self, problems: Iterable[Problem]) -> None:
        """Record problems, to which responses refer by id; a problem with a new solution or answer replaces the old one."""
        old, table = self.problems(), tables.problems.table
        rows = [tables.problems.row(new, study=self.study) for new in problems if old.get(new.id) != new]
        if rows:

            def replace(connection: Connection) -> None:
                connection.execute(
                    delete(table).where(table.c.study == self.study, table.c.id.in_([row["id"] for row in rows]))
                )
                connection.execute(insert(table), rows)

            self._within(replace)

    def problems(self) -> dict[str, Problem]:
        """Return the recorded problems by id."""
        return {problem.id: problem for problem in self._select(tables.problems)}

    # ---- writing

    def write(self, record: Record, responses: Sequence[Response] = ()) -> None:
        """Persist a record (a Score together with its responses), then notify the observers if it is new or changed."""
        self._write([record], responses)

    def write_metrics(self, metrics: Sequence[StepMetrics]) -> None:
        """Persist steps in one transaction, then notify the observers of the new or changed ones."""
        self._write(metrics)

    def _write(self, records: Sequence[Record], responses: Sequence[Response] = ()) -> None:
        # Outside `persist`: if a connection breaks after a commit, the second attempt finds equal records.
        new: dict[int, Record] = {}

        def persist(connection: Connection) -> None:
            for place, record in enumerate(records):
                if self._persist(connection, record):
                    new[place] = record
                    if isinstance(record, Score):
                        self._replace_responses(connection, record, responses)

        self._within(persist)
        for record in new.values():
            self._notify(record)

    def announce(self, announcement: Announcement) -> None:
        """Notify the observers without persisting anything."""
        self._notify(announcement)

    def _persist(self, connection: Connection, record: Record) -> bool:
        """Write the record unless an equal one is there; return whether it was written."""
        record_table = _TABLES[type(record)]
        table, row = record_table.table, record_table.row(record, study=self.study)
        same_key = [column == row[column.name] for column in table.primary_key.columns]
        old_row = connection.execute(select(*record_table.columns).where(*same_key)).one_or_none()
        if old_row is None:
            connection.execute(insert(table).values(row))
        elif record_table.record(old_row) == record:
            return False
        else:
            connection.execute(update(table).where(*same_key).values(row))
        return True

    def _notify(self, record: Notification) -> None:
        for observer in self.observers:
            try:
                observer.notify(record)
            except Exception:
                log.exception("%s raised an error on a %s", type(observer).__name__, type(record).__name__)

    def _replace_responses(self, connection: Connection, score: Score, responses: Sequence[Response]) -> None:
        key = {"study": self.study, "run": score.run, "step": score.step, "pool": score.pool}
        table = tables.responses.table
        connection.execute(delete(table).where(*(table.c[name] == value for name, value in key.items())))
        if responses:
            connection.execute(insert(table), [tables.responses.row(response, **key) for response in responses])

    # ---- reading

    def runs(self, kind: RunKind | None = None) -> list[Run]:
        """Return the runs of a kind, or all: first runs that are not trials, oldest first, then trials by number."""
        of_kind = {} if kind is None else {"kind": kind}
        runs: list[Run] = self._select(tables.runs, order=("written", "name"), **of_kind)
        return sorted(runs, key=lambda run: -1 if run.number is None else run.number)

    def quality(self) -> Quality | None:
        """Return the quality of the study's data; None before the data were read."""
        return next(iter(self._select(tables.qualities)), None)

    def run(self, name: str) -> Run | None:
        return next(iter(self._select(tables.runs, name=name)), None)

    def diverged(self, run: str) -> Diverged | None:
        """Return where the run diverged; None if it did not."""
        return next(iter(self._select(tables.diverged, run=run)), None)

    def provenance(self, run: str) -> Provenance | None:
        return next(iter(self._select(tables.provenances, run=run)), None)

    def checkpoints(self, run: str) -> list[Checkpoint]:
        return self._select(tables.checkpoints, order=("step",), run=run)

    def checkpoint(self, run: str, step: int) -> Checkpoint | None:
        return next(iter(self._select(tables.checkpoints, run=run, step=step)), None)

    def scores(self, run: str | None = None, pool: str | None = None) -> list[Score]:
        key = {name: value for name, value in {"run": run, "pool": pool}.items() if value is not None}
        return self._select(tables.scores, order=("run", "step"), **key)

    def score(self, run: str, step: int, pool: str) -> Score | None:
        return next(iter(self._select(tables.scores, run=run, step=step, pool=pool)), None)

    def metrics(self, run: str) -> list[StepMetrics]:
        return self._select(tables.metrics, order=("step",), run=run)

    def responses(self, score: Score) -> list[Response]:
        key = {"run": score.run, "step": score.step, "pool": score.pool}
        return self._select(tables.responses, order=("problem_id", "sample"), **key)

    def worker_calls(self) -> list[WorkerCall]:
        return self._select(tables.worker_calls, order=("began",))

    def sessions(self) -> list[Session]:
        return self._select(tables.sessions, order=("began",))

    def asks(self) -> list[Ask]:
        return self._select(tables.asks, order=("number",))

    def ask(self, number: int) -> Ask | None:
        return next(iter(self._select(tables.asks, number=number)), None)

    def prune_verdicts(self) -> list[PruneVerdict]:
        return self._select(tables.prune_verdicts, order=("run", "index"))

    def prune_verdict(self, run: str, index: int) -> PruneVerdict | None:
        return next(iter(self._select(tables.prune_verdicts, run=run, index=index)), None)

    def promotion(self) -> Promotion | None:
        return next(iter(self._select(tables.promotions)), None)

    def _select(self, record_table: tables.RecordTable, order: tuple[str, ...] = (), **key: Any) -> list[Any]:
        table = record_table.table
        where = [table.c[name] == value for name, value in {"study": self.study, **key}.items()]
        query = select(*record_table.columns).where(*where).order_by(*(table.c[name] for name in order))
        return self._within(lambda connection: [record_table.record(row) for row in connection.execute(query)])

    # ---- the database

    def _within(self, work: Callable[[Connection], Result]) -> Result:
        """Return what `work` returns in a transaction; it runs again after a lost connection."""

        def attempt() -> Result:
            with self.engine.begin() as connection:
                return work(connection)

        return self.waiting(attempt)

    def waiting(self, call: Callable[[], Result]) -> Result:
        """Return what `call` returns. If the connection to a server is lost, wait for the server and call again.

        `call` must be idempotent. Raises UserError for any other error of the database.
        """
        began = time.monotonic()

        def tell(state: RetryCallState) -> None:
            if state.attempt_number == 1:
                log.warning("database %s cannot be reached; the study waits for it", self.url)

        # Before the store is open, a wrong address is more likely than a server that restarts.
        limit = LONGEST_WAIT_SECONDS if self._is_open else 0.0
        waits = Retrying(
            retry=retry_if_exception(lambda error: is_connection_lost(_database_error(error))),
            wait=wait_exponential(multiplier=0.1, max=10),
            stop=stop_after_delay(limit),
            before_sleep=tell,
            reraise=True,
        )
        try:
            result = waits(call)
        except Exception as error:
            if (cause := _database_error(error)) is None:
                raise
            raise UserError(self.database.trouble(cause.orig or cause)) from error
        if waits.statistics["attempt_number"] > 1:
            log.warning("database %s is back after %.0f s; the study goes on", self.url, time.monotonic() - began)
        return result


def _database_error(error: BaseException | None) -> DBAPIError | None:
    """Return the database's error, which SQLAlchemy's session and Optuna may have wrapped in others."""
    while error is not None and not isinstance(error, DBAPIError | UserError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, DBAPIError) else None
