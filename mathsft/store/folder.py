"""A study's folder: where its things lie, and the lock that lets one driver at a time write there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mathsft.errors import UserError


@dataclass(frozen=True)
class StudyFolder:
    """The paths inside studies/<name>/."""

    path: Path

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.path / 'study.db'}"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for this process; the kernel lets go of it however the process ends.

        Raises UserError naming the process that holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "driver.lock").open("a+")
        except OSError as error:
            raise UserError(
                f"study folder {self.path}: cannot be written ({error.strerror}); start from a folder of your own"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(
                    f"study folder {self.path}: process {holder} is already at work there; wait for it or end it, "
                    "then run the same command again"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
