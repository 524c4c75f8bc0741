import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from mathsft.config.schema import Experiment
from mathsft.store.book import Book


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@event.listens_for(Engine, "connect")
def _spare_the_disk(connection: object, _: object) -> None:
    """Have SQLite not wait for the disk: that guards against power cuts, and no test has one."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("pragma synchronous=off")


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return Experiment.model_validate(
        {
            "model": {"path": "quickstart"},
            "data": {"source": "quickstart"},
            "prompt": {"template": "short"},
            "training": {"learning_rate": 1e-3, "batch_size": 16, "precision": "fp32"},
        }
    )


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book.open(f"sqlite:///{tmp_path / 'study.db'}", "demo")
    yield book
    book.close()
