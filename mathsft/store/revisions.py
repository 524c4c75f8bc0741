"""Creates and upgrades the tables of a database by Alembic's revisions in migrations/."""

from pathlib import Path

from sqlalchemy import Connection, inspect, select, text

from mathsft.errors import UserError
from mathsft.store.tables import versions

HEAD = "0001"
"""The revision that this version of mathsft reads and writes."""
MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 77_114
"""Key of the lock that lets one process at a time upgrade a PostgreSQL database."""


def upgrade(connection: Connection, shown: str, migrations: Path = MIGRATIONS, head: str = HEAD) -> None:
    """Bring the database to revision `head`; raise UserError, which names it as `shown`, if it is another version's."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    names = inspect(connection).get_table_names()
    if "msft_schema" in names:
        raise UserError(
            f"database {shown}: an earlier version of mathsft made it, which this one cannot read; use that version, or "
            "begin a study under another name"
        )
    revision = connection.scalar(select(versions.c.version_num)) if versions.name in names else None
    if revision == head:
        return
    from alembic import command  # slow to import, and rarely needed
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise UserError(f"database {shown}: a newer version of mathsft made it (revision {revision}); use that version")
    command.upgrade(config, head)
