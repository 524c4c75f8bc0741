"""SQLAlchemy tables made from the records: a column a field, keyed by study. Knows nothing of what the records mean."""

import types
from dataclasses import dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from sqlalchemy import JSON, Boolean, Column, DateTime, Float, Integer, MetaData, Table, Text, func

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

SCHEMA_NUMBER = 6
"""Raised whenever a table changes: a database of another number is refused, never guessed at."""

METADATA = MetaData()


@dataclass(frozen=True)
class RecordTable:
    """A table, the record it holds, and the way between them."""

    table: Table
    adapter: TypeAdapter[Any]
    field_names: tuple[str, ...]

    def row(self, record: Any, **context: Any) -> dict[str, Any]:
        """Return the record as a row; context fills the key columns that the record itself lacks."""
        return {**context, **self.adapter.dump_python(record, mode="json")}

    def record(self, row: Any) -> Any:
        """Return the record that the row was made from."""
        return self.adapter.validate_python({name: row[name] for name in self.field_names})


def _column_type(hint: Any) -> type[Any]:
    """Return the column type for a field; whatever is not one plain scalar is stored as JSON."""
    if get_origin(hint) is Literal:
        return Text
    if get_origin(hint) in (Union, types.UnionType):
        given = [part for part in get_args(hint) if part is not type(None)]
        return _column_type(given[0]) if len(given) == 1 else JSON
    scalars: dict[Any, type[Any]] = {str: Text, int: Integer, float: Float, bool: Boolean}
    return scalars.get(hint, JSON)


def _record_table(name: str, record: type[Any], key: tuple[str, ...], **context: type[Any]) -> RecordTable:
    """Make a record's table; context are key columns that the record itself lacks."""
    hints = {**context, **get_type_hints(record)}
    columns = [Column("study", Text, primary_key=True)]
    columns += [Column(column, _column_type(hint), primary_key=column in key) for column, hint in hints.items()]
    table = Table(name, METADATA, *columns, Column("written", DateTime, server_default=func.now(), nullable=False))
    return RecordTable(table, TypeAdapter(record), tuple(field.name for field in fields(record)))


schemas = Table("msft_schema", METADATA, Column("number", Integer, primary_key=True))
studies = Table("msft_study", METADATA, Column("study", Text, primary_key=True), Column("settings", JSON, nullable=False))
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
