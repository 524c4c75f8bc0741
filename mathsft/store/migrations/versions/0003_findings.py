"""What was found in the data is one list of findings"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COUNTS = {
    "unreadable": ("num_unreadable", "num_unreadable"),
    "contradictory": ("num_contradictory", "num_contradictory_rows"),
    "variant": ("num_variants", "num_variants"),
    "in_test": ("num_overlapping", "num_overlapping"),
    "repeated": ("num_repeated", "num_repeated"),
}
"""Kind of finding -> the earlier columns with its count and its number of rows."""
_DROPPED = (*dict.fromkeys(name for names in _COUNTS.values() for name in names), "first_unreadable", "frequent_golds")


def upgrade() -> None:
    """Change the table; the earlier counts become findings, with the examples that were recorded."""
    connection = op.get_bind()
    rows = connection.execute(sa.text("select * from msft_quality")).mappings().all()
    with op.batch_alter_table("msft_quality") as batch_op:
        batch_op.add_column(sa.Column("findings", sa.JSON(), nullable=True, server_default="[]"))
        for name in _DROPPED:
            batch_op.drop_column(name)
    quality = sa.table("msft_quality", sa.column("study", sa.Text()), sa.column("findings", sa.JSON()))
    for row in rows:
        change = quality.update().where(quality.c.study == row["study"])
        connection.execute(change.values(findings=_findings(row)))


def _findings(row: sa.RowMapping) -> list[dict[str, object]]:
    """Return the findings in the counts of an earlier row."""
    findings: list[dict[str, object]] = [
        {"kind": kind, "count": row[count], "num_rows": row[num_rows], "examples": []}
        for kind, (count, num_rows) in _COUNTS.items()
        if row[count]
    ]
    for finding in findings:
        if finding["kind"] == "unreadable":
            finding["examples"] = [row["first_unreadable"]]
    golds = row["frequent_golds"] or []
    golds = json.loads(golds) if isinstance(golds, str) else golds  # SQLite gives back a text
    if golds:
        texts = [
            f"{gold['text']!r} in {gold['num_rows']:,} of {gold['num_all_rows']:,} rows, the first in {gold['first']}"
            for gold in golds
        ]
        num_rows = sum(gold["num_rows"] for gold in golds)
        findings.append({"kind": "frequent", "count": len(golds), "num_rows": num_rows, "examples": texts[:3]})
    return findings
