import gc
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, event

from mathsft.config.schema import Experiment
from mathsft.store.study_store import StudyStore
from tests.build import make_experiment

if TYPE_CHECKING:
    from tests.postgresql import Server

LONGEST = (
    "end_to_end/test_quickstart.py",
    "test_style.py",
    "end_to_end/test_wheel.py",
    "evaluation/test_evaluation.py",
    "cli/test_doctor.py",
    "training/test_rank_group.py",
    "end_to_end/test_two_evaluators.py",
    "workers/test_worker.py",
    "workers/test_ray_cluster.py",
    "browser/test_pages.py",
)
"""Files that take half a minute and more, the longest first."""


def pytest_configure() -> None:
    """Set up the process before anything is imported or started."""
    # Imports make a million objects that live to the end: without this, the collector visits all of them again and again.
    gc.disable()
    # Leave cores to others: numpy and torch would start a thread for each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What is started here shall hear Ctrl-C: a shell's background job ignores it, and so would all that descends from it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the fast tests first; of files that several processes share, the longest, so that all end at the same time."""
    if hasattr(config, "workerinput"):  # pytest-xdist's
        places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))
    else:
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_collection_finish() -> None:
    """Have the collector look at what tests make, and no longer at what was imported."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries with C++ objects call what is left at the end a leak


@event.listens_for(Engine, "connect")
def _spare_the_disk(connection: object, _: object) -> None:
    """Have SQLite not wait for the disk: that guards against power cuts, and no test has one."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("pragma synchronous=off")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test in a folder of its own: studies that were run in the checkout are none of its business."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return make_experiment()


@pytest.fixture(scope="session")
def server() -> "Iterator[Server]":
    """A PostgreSQL server of this process."""
    from tests.postgresql import running

    # Not in pytest's folder: each pytest that starts closes it to other users, and the server runs as one if this is root.
    with TemporaryDirectory() as folder, running(Path(folder)) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StudyStore]:
    """The store of the study "demo", or as the test's file calls it by STUDY."""
    store = StudyStore.open(f"sqlite:///{tmp_path / 'study.db'}", getattr(request.module, "STUDY", "demo"))
    yield store
    store.close()
