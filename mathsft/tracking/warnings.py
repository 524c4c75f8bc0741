"""Shows the driver's warnings on the terminal, such as a worker that died or weights that are trained again."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mathsft.tracking.heartbeat import Heartbeat


@contextmanager
def warnings_shown(heartbeat: Heartbeat) -> Iterator[None]:
    """Write the first line of each warning from mathsft's loggers while the body runs; the log file has the full text."""
    handler, logger = _Terminal(heartbeat), logging.getLogger("mathsft")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Terminal(logging.Handler):
    def __init__(self, heartbeat: Heartbeat) -> None:
        super().__init__(logging.WARNING)
        self._heartbeat = heartbeat

    def emit(self, record: logging.LogRecord) -> None:
        first_line = record.getMessage().partition("\n")[0]
        self._heartbeat.tell("warning", first_line)
