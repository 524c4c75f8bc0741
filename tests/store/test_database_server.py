"""PostgreSQL: addresses and secrets, the lock of a study, upgrades of the tables, and connections that are lost."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, make_url, text

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.store import revisions, tables
from mathsft.store.database import STORAGE_VARIABLE, Database
from mathsft.store.study_store import StudyStore
from tests.build import make_trial
from tests.postgresql import Server

SECRET = "hunter2"
LAYOUT = StudyLayout(Path("studies/demo"))


def test_the_address_comes_from_the_setting_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Database.of(LAYOUT, None).shown == "sqlite:///studies/demo/study.db"
    monkeypatch.setenv(STORAGE_VARIABLE, f"postgresql://me:{SECRET}@db.example/all")
    database = Database.of(LAYOUT, None)
    assert database.is_server
    assert database.url.password == SECRET
    assert database.shown == "postgresql+psycopg://me@db.example/all"
    assert SECRET not in repr(database) + database.trouble(OSError("no route"))
    assert Database.of(LAYOUT, "postgresql://you@other/all").shown == "postgresql+psycopg://you@other/all"


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        (f"postgresql://me:{SECRET}@host/all", "contains a password.* use PGPASSWORD"),
        ("mysql://host/all", "mysql: not supported"),
        (SECRET, "no database URL"),
    ],
)
def test_a_bad_address_is_one_line_without_its_password(storage: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Database.of(LAYOUT, storage)
    assert SECRET not in str(caught.value)


def test_a_server_that_does_not_answer_is_one_line_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"database postgresql\+psycopg://me@/all\?host=.*; make it reachable") as caught:
        StudyStore.open(f"postgresql+psycopg://me:{SECRET}@/all?host={tmp_path}", "demo")
    assert SECRET not in str(caught.value)


def test_two_drivers_on_one_study_are_refused_wherever_they_run(server: Server) -> None:
    url = server.new_database()
    first = StudyStore.open(Database(url), "demo", is_driver=True)
    with pytest.raises(UserError, match=rf"study demo: {first.database.owner} is already using it"):
        StudyStore.open(Database(url), "demo", is_driver=True)
    StudyStore.open(Database(url), "other", is_driver=True).close()
    reader = StudyStore.open(Database(url), "demo")
    first.write(make_trial(0))
    assert [run.name for run in reader.runs()] == ["trial-0"]
    reader.close()
    first.close()
    StudyStore.open(Database(url), "demo", is_driver=True).close()


def test_a_driver_takes_its_lock_back_from_its_own_broken_connection(server: Server) -> None:
    """The server may notice a broken connection long after the driver did."""
    url = server.new_database()
    database = Database(url)
    broken = StudyStore.open(database, "demo", is_driver=True)
    again = StudyStore.open(database, "demo", is_driver=True)
    again.write(make_trial(0))
    with pytest.raises(UserError, match="already using it"):
        StudyStore.open(Database(url), "demo", is_driver=True)
    again.close()
    broken.close()


def test_a_lost_lock_is_never_written_past(server: Server) -> None:
    url = server.new_database()
    first = StudyStore.open(Database(url), "demo", is_driver=True)
    with create_engine(url).begin() as other:
        other.execute(
            text("select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = :name"),
            {"name": first.database.owner},
        )
    second = StudyStore.open(Database(url), "demo", is_driver=True)
    with pytest.raises(UserError, match="already using it"):
        first.write(make_trial(0))
    assert second.runs() == []
    second.close()
    first.write(make_trial(0))
    assert [run.name for run in first.runs()] == ["trial-0"]
    first.close()


def test_the_revisions_make_the_tables_of_the_code(server: Server, tmp_path: Path) -> None:
    names = {table.name for table in tables.METADATA.sorted_tables}
    for url in (server.new_database(), make_url(f"sqlite:///{tmp_path / 'study.db'}")):
        store = StudyStore.open(Database(url), "demo")
        with store.engine.connect() as connection:
            options = {
                "version_table": tables.versions.name,
                "include_name": lambda name, kind, _: kind != "table" or name in names,
            }
            assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.METADATA) == []
        store.close()


DUMMY = f'''
"""A column that no version has."""

import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{revisions.HEAD}"


def upgrade() -> None:
    with op.batch_alter_table("msft_run") as batch:
        batch.add_column(sa.Column("colour", sa.Text()))
'''


def test_a_database_is_upgraded_by_a_later_revision_and_keeps_its_records(server: Server, tmp_path: Path) -> None:
    migrations = tmp_path / "migrations"
    shutil.copytree(revisions.MIGRATIONS, migrations)
    (migrations / "versions" / "9000_dummy.py").write_text(DUMMY)
    for url in (server.new_database(), make_url(f"sqlite:///{tmp_path / 'study.db'}")):
        store = StudyStore.open(Database(url), "demo")
        store.write(make_trial(0))
        with store.engine.begin() as connection:
            revisions.upgrade(connection, store.url, migrations, "9000")
            revisions.upgrade(connection, store.url, migrations, "9000")
        assert "colour" in {column["name"] for column in inspect(store.engine).get_columns("msft_run")}
        assert [run.name for run in store.runs()] == ["trial-0"]
        store.close()
        with pytest.raises(UserError, match="a newer version of mathsft made it"):
            StudyStore.open(Database(url), "demo")


def test_no_password_reaches_the_process_list_or_the_output(server: Server, tmp_path: Path) -> None:
    url = server.new_database().set(password=SECRET).render_as_string(hide_password=False)
    words = [sys.executable, "-m", "mathsft", "show", "demo"]
    shown = subprocess.run(
        words,
        env={"PATH": "", STORAGE_VARIABLE: url, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2, shown.stderr
    assert "there is no study with results in postgresql+psycopg://" in shown.stderr
    assert SECRET not in shown.stdout + shown.stderr


def test_studies_share_a_database(server: Server) -> None:
    database = Database(server.new_database())
    for name in ("b", "a"):
        store = StudyStore.open(database, name)
        store.record_settings({"model.path": name})
        store.close()
    assert StudyStore.studies(database) == ["a", "b"]


def test_a_nul_character_in_a_response_is_kept_as_its_symbol(server: Server, tmp_path: Path) -> None:
    for url in (server.new_database(), make_url(f"sqlite:///{tmp_path / 'study.db'}")):
        store = StudyStore.open(Database(url), "demo")
        store.write(make_trial(0, reason="a\x00b"))
        assert store.runs()[0].reason == "a\u2400b"
        store.close()
