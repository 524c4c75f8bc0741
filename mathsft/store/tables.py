"""SQLAlchemy tables made from the record classes: one column per field, keyed by study."""

import types
from dataclasses import dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    func,
)

from mathsft.records import (
    Ask,
    Checkpoint,
    Diverged,
    Problem,
    Promotion,
    Provenance,
    PruneVerdict,
    Quality,
    Response,
    Run,
    Score,
    Session,
    StepMetrics,
    WorkerCall,
)

METADATA = MetaData()
"""All tables as the code wants them. A change needs a revision in migrations/: `python tools/make_revision.py`."""


class Words(TypeDecorator[str]):
    """Text in which the character NUL, which PostgreSQL refuses, is replaced by its symbol."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\x00", "\u2400") if value else value


@dataclass(frozen=True)
class RecordTable:
    """A table and the conversion between its rows and records of one class."""

    table: Table
    adapter: TypeAdapter[Any]
    field_names: tuple[str, ...]

    @property
    def columns(self) -> list[Column[Any]]:
        """Those of the record's fields, in their order."""
        return [self.table.c[name] for name in self.field_names]

    def row(self, record: Any, **context: Any) -> dict[str, Any]:
        """Return the record as a row; context holds the key columns that the record lacks."""
        return {**context, **self.adapter.dump_python(record, mode="json")}

    def record(self, row: Any) -> Any:
        """Return the record of a row of `columns`."""
        return self.adapter.validate_python(dict(zip(self.field_names, row, strict=True)))


def _column_type(hint: Any) -> type[Any]:
    """Return the column type of a field; all types but plain scalars are stored as JSON."""
    if get_origin(hint) is Literal:
        return Words
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        return _column_type(parts[0]) if len(parts) == 1 else JSON
    scalars: dict[Any, type[Any]] = {str: Words, int: BigInteger, float: Float, bool: Boolean}
    return scalars.get(hint, JSON)


def _record_table(name: str, record: type[Any], key: tuple[str, ...], **context: type[Any]) -> RecordTable:
    """Make the table of a record class; context holds the types of key columns that the record lacks."""
    hints = {**context, **get_type_hints(record)}
    columns = [Column("study", Words, primary_key=True)]
    columns += [Column(column, _column_type(hint), primary_key=column in key) for column, hint in hints.items()]
    table = Table(name, METADATA, *columns, Column("written", DateTime, server_default=func.now(), nullable=False))
    return RecordTable(table, TypeAdapter(record), tuple(field.name for field in fields(record)))


versions = Table("msft_version", MetaData(), Column("version_num", Text, primary_key=True))
"""Alembic's table with the database's revision. Optuna has its own in the same database."""
studies = Table("msft_study", METADATA, Column("study", Words, primary_key=True), Column("settings", JSON, nullable=False))
problems = _record_table("msft_problem", Problem, ("id",))
qualities = _record_table("msft_quality", Quality, ())
runs = _record_table("msft_run", Run, ("name",))
provenances = _record_table("msft_provenance", Provenance, ("run",))
metrics = _record_table("msft_metrics", StepMetrics, ("run", "step"))
checkpoints = _record_table("msft_checkpoint", Checkpoint, ("run", "step"))
diverged = _record_table("msft_diverged", Diverged, ("run",))
scores = _record_table("msft_score", Score, ("run", "step", "pool"))
responses = _record_table(
    "msft_response", Response, ("run", "step", "pool", "problem_id", "sample"), run=str, step=int, pool=str
)
worker_calls = _record_table("msft_worker_call", WorkerCall, ("worker", "began"))
asks = _record_table("msft_ask", Ask, ("number",))
prune_verdicts = _record_table("msft_prune_verdict", PruneVerdict, ("run", "index"))
sessions = _record_table("msft_session", Session, ("began",))
promotions = _record_table("msft_promotion", Promotion, ())
