"""Watches the file that a worker appends to during a call: whether the worker hangs, and whether retries get further."""

import time
from collections.abc import Callable
from pathlib import Path

from mathsft.config.study_schema import LimitSettings


class ProgressWatch:
    """Signs of life during one call; without a file the worker never counts as hung."""

    def __init__(self, path: Path | None, limits: LimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._limits, self._clock = path, limits, clock
        self.begin()
        self._furthest_size = self._seen[0]

    def begin(self) -> None:
        """Restart the time limits: a process was just called and may have to start first."""
        self._seen, self._limit_name, self._last_sign = self._look(), "start_seconds", self._clock()

    def complaint(self) -> str:
        """Return why the process counts as hung; empty if it does not."""
        if self._path is None:
            return ""
        if (seen := self._look()) != self._seen:
            self._seen, self._limit_name, self._last_sign = seen, "hang_seconds", self._clock()
        limit: float = getattr(self._limits, self._limit_name)
        if self._clock() - self._last_sign <= limit:
            return ""
        return f"showed no progress for {limit:g} s (limits.{self._limit_name})"

    def got_further(self) -> bool:
        """Return whether the file is longer than at the start and at each earlier call of this method."""
        size, before = self._look()[0], self._furthest_size
        self._furthest_size = max(size, before)
        return size > before

    def _look(self) -> tuple[int, int]:
        """Return the file's size and modification time in nanoseconds; zeros without a file."""
        try:
            status = self._path.stat() if self._path is not None else None
        except FileNotFoundError:
            status = None
        return (status.st_size, status.st_mtime_ns) if status is not None else (0, 0)
