"""The store: all records of a study in its own database, which only the driver writes.

`write` persists a record and then notifies the observers; writing an equal record again does nothing. An observer's error is
logged and does not stop the study.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeAlias

from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, select, update
from sqlalchemy.exc import DBAPIError

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
LOCK_TIMEOUT_SECONDS = 60


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
    """One study's records in its database (SQLite in WAL mode, or PostgreSQL by URL).

    Raises UserError when the database cannot be used: of another schema, locked, or out of reach.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        self.engine, self.study = engine, study
        self.observers: list[Observer] = []

    @classmethod
    def open(cls, url: str, study: str) -> Self:
        """Open the store of a study and create its tables if there are none."""
        store = cls(_engine(url), study)
        with store._transaction() as connection:
            tables.METADATA.create_all(connection)
            number = connection.scalar(select(tables.schemas.c.number))
            if number is None:
                connection.execute(insert(tables.schemas).values(number=tables.SCHEMA_NUMBER))
            elif number != tables.SCHEMA_NUMBER:
                raise UserError(
                    f"database {store.url}: its schema is number {number}, this mathsft reads {tables.SCHEMA_NUMBER}; "
                    "use the version of mathsft that made it, or begin a study under another name"
                )
        return store

    @property
    def url(self) -> str:
        """Return the database's address without its password."""
        return self.engine.url.render_as_string(hide_password=True)

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
        with self._transaction() as connection:
            connection.execute(delete(tables.studies).where(tables.studies.c.study == self.study))
            connection.execute(insert(tables.studies).values(study=self.study, settings=dict(settings)))

    def settings(self) -> dict[str, Any] | None:
        """Return the study's resolved settings by dotted name; None before they are recorded."""
        with self._transaction() as connection:
            return connection.scalar(select(tables.studies.c.settings).where(tables.studies.c.study == self.study))

    # ---- problems

    def record_problems(self, problems: Iterable[Problem]) -> None:
        """Record problems, to which responses refer by id; a problem with a new solution or answer replaces the old one."""
        old, table = self.problems(), tables.problems.table
        rows = [tables.problems.row(new, study=self.study) for new in problems if old.get(new.id) != new]
        if rows:
            replaced = [row["id"] for row in rows if row["id"] in old]
            with self._transaction() as connection:
                connection.execute(delete(table).where(table.c.study == self.study, table.c.id.in_(replaced)))
                connection.execute(insert(table), rows)

    def problems(self) -> dict[str, Problem]:
        """Return the recorded problems by id."""
        return {problem.id: problem for problem in self._select(tables.problems)}

    # ---- writing

    def write(self, record: Record, responses: Sequence[Response] = ()) -> None:
        """Persist a record (a Score together with its responses), then notify the observers if it is new or changed."""
        with self._transaction() as connection:
            is_new = self._persist(connection, record)
            if is_new and isinstance(record, Score):
                self._replace_responses(connection, record, responses)
        if is_new:
            self._notify(record)

    def write_metrics(self, metrics: Sequence[StepMetrics]) -> None:
        """Persist steps in one transaction, then notify the observers of the new or changed ones."""
        with self._transaction() as connection:
            new = [step for step in metrics if self._persist(connection, step)]
        for step in new:
            self._notify(step)

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
        with self._transaction() as connection:
            return [record_table.record(row) for row in connection.execute(query)]

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise UserError(self.trouble(error.orig or error)) from error

    def trouble(self, error: BaseException) -> str:
        """Return the message for the user when the database cannot be used."""
        reason = str(error).partition("\n")[0]
        return f"database {self.url}: {reason}; unlock or repair it, then run the same command again: no record is lost"


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url)
    engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def _use_wal(connection: Any, _: Any) -> None:
        connection.execute("pragma journal_mode=wal")

    return engine
