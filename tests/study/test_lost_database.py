"""A database server that stops in the middle of a study: the driver waits, goes on, and nothing is lost or doubled."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from mathsft.config.schema import Experiment
from tests.postgresql import Server
from tests.study.toys import Driver, Kills, study_config

CONFIG = study_config(num_trials=5)


class Operator(logging.Handler):
    """Stops the server before the statements or commits with the given numbers, and starts it once the driver waits."""

    def __init__(self, server: Server, stops: set[int]) -> None:
        super().__init__(logging.WARNING)
        self.server, self.stops, self.num_seen, self.num_waits = server, stops, 0, 0

    def see(self, *_: Any) -> None:
        self.num_seen += 1
        if self.num_seen in self.stops:
            self.server.stop("immediate" if self.num_seen == min(self.stops) else "fast")

    def emit(self, record: logging.LogRecord) -> None:
        if "cannot be reached" in record.getMessage():
            self.num_waits += 1
            self.server.start()


@contextmanager
def operated(server: Server, stops: set[int]) -> Iterator[Operator]:
    operator, logger = Operator(server, stops), logging.getLogger("mathsft")
    logger.addHandler(operator)
    names = ("before_cursor_execute", "commit")
    for name in names:
        event.listen(Engine, name, operator.see)
    try:
        yield operator
    finally:
        for name in names:
            event.remove(Engine, name, operator.see)
        logger.removeHandler(operator)


@pytest.mark.slow
def test_the_server_may_stop_at_any_statement(server: Server, tmp_path: Path, experiment: Experiment) -> None:
    undisturbed = Driver(tmp_path / "sqlite", experiment, Kills())
    undisturbed.study(CONFIG)
    on_server = Driver(tmp_path / "server", experiment, Kills(), database=server.new_database())
    with operated(server, set()) as counting:
        on_server.study(CONFIG)
    assert on_server.summary() == undisturbed.summary()
    on_server.store.close()
    spacing = counting.num_seen // 8
    driver = Driver(tmp_path / "stopped", experiment, Kills(), database=server.new_database())
    with operated(server, set(range(spacing // 2, counting.num_seen, spacing))) as operator:
        driver.study(CONFIG)
    assert operator.num_waits >= 8
    assert driver.summary() == undisturbed.summary()
    driver.store.close()


@pytest.mark.slow
def test_a_commit_may_take_place_though_its_answer_is_lost(server: Server, tmp_path: Path, experiment: Experiment) -> None:
    undisturbed = Driver(tmp_path / "sqlite", experiment, Kills())
    undisturbed.study(CONFIG)
    driver, num_commits = Driver(tmp_path / "server", experiment, Kills(), database=server.new_database()), 0
    lost = {3, 9, 20, 41, 64, 90, 117, 150}

    def lose(connection: Any) -> None:
        nonlocal num_commits
        num_commits += 1
        if num_commits in lost:
            connection.connection.dbapi_connection.commit()
            raise OperationalError(
                "commit", None, psycopg.OperationalError("the connection is lost"), connection_invalidated=True
            )

    event.listen(Engine, "commit", lose)
    try:
        driver.study(CONFIG)
    finally:
        event.remove(Engine, "commit", lose)
    assert num_commits > max(lost)
    assert driver.summary() == undisturbed.summary()
    driver.store.close()
