"""A worker as the driver sees it: ranks, turns on a shared device, and a new process for one that died."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mathsft.config.study_schema import LimitSettings
from mathsft.errors import ErrorKind, UserError
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.backend import Backend, WorkerDied, WorkerProcess
from mathsft.workers.host import Returned
from mathsft.workers.progress_watch import ProgressWatch
from mathsft.workers.spawn import SpawnBackend

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""A call fails after this many deaths of the worker's process without progress between them."""
LOOK_SECONDS = 1
"""Interval at which a working process is checked for progress."""
DEATH_SEEN_SECONDS = 1
"""How long to wait, after an error of one rank, for the death of another rank that may have caused it."""
QUOTED_LINES = 20
"""Number of last log lines in the message of Failed."""


class RemoteError(Exception):
    """The target's code raised an error, which a retry would raise again; this error has the traceback as a note."""

    def __init__(self, message: str, kind: ErrorKind) -> None:
        super().__init__(message)
        self.kind = kind


class Failed(Exception):  # noqa: N818 - the word that runs and reports use
    """The worker died in every attempt to answer a call."""


class Attempts:
    """Counts the deaths of processes over one request, which one worker or several try to answer.

    Without growth of the file `progress` the request fails after ATTEMPTS deaths.
    """

    def __init__(self, request: str, limits: LimitSettings, progress: Path | None = None) -> None:
        self.watch = ProgressWatch(progress, limits)
        self._request, self._num_deaths = request, 0

    def add(self, worker: str, death: WorkerDied) -> None:
        """Count a death; raise Failed if it was the last attempt."""
        self._num_deaths = 1 if self.watch.got_further() else self._num_deaths + 1
        if self._num_deaths == ATTEMPTS:
            raise Failed(
                f"{worker}.{self._request}: the worker died {ATTEMPTS} times without progress; the last time: "
                f"{death}; the log ends with\n" + _last_lines(death.log_path)
            ) from death
        logger.warning("%s: %s; attempt %d of %d begins", worker, death, self._num_deaths + 1, ATTEMPTS)


class Device:
    """A device that workers use in turn: one worker is awake at a time, and the one before is parked first."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._awake: Worker | None = None

    @asynccontextmanager
    async def lent_to(self, worker: "Worker") -> AsyncIterator[None]:
        """Wait for the device, then hold it for the worker while the body runs."""
        async with self._lock:
            if self._awake not in (None, worker):
                await self._awake.park()
            self._awake = worker
            yield

    @property
    def is_busy(self) -> bool:
        """Return whether a worker holds the device."""
        return self._lock.locked()

    def is_free_for(self, worker: "Worker") -> bool:
        """Return whether no other worker holds the device."""
        return not self._lock.locked() or self._awake is worker


class Worker:
    """One target in one process, or in several ranks; they start at once or, with ends_when_parked, at the first turn."""

    def __init__(
        self, spec: WorkerSpec, name: str, device: Device, limits: LimitSettings, backend: Backend | None = None
    ) -> None:
        self.spec, self.name, self._device, self._limits = spec, name, device, limits
        self._backend = backend or SpawnBackend()
        self.others: Sequence[Worker] = ()
        """The workers that give way to this one, while they are idle, if no machine has room for its processes."""
        self.has_answered = False
        """Its present processes have answered a call; before that they import modules and load models."""
        self._processes: Sequence[WorkerProcess] = () if spec.ends_when_parked else self._start()

    async def call(self, method: str, *args: Any, progress: Path | None = None) -> Any:
        """Call the target's method and return its value, rank 0's if there are ranks; methods must be idempotent.

        A process that dies is replaced and called again; so is a process that hangs, which means that it does not change
        the file `progress` within the limits. Raises Failed after ATTEMPTS deaths between which the file did not grow,
        RemoteError for an error in the target's code, and the target's own UserError. When a call is cancelled or fails,
        its processes end, so that none replies late or goes on in a broken state; the next call starts new ones.
        """
        attempts = Attempts(method, self._limits, progress)
        async with self._device.lent_to(self):
            while True:
                try:
                    return await self._attempt(attempts, method, args)
                except WorkerDied as death:
                    attempts.add(self.name, death)

    async def call_once(self, attempts: Attempts, method: str, *args: Any) -> Any:
        """Call the target's method like `call`, but raise WorkerDied when a process dies or hangs: another worker may try.

        A new process has started by then, unless the worker ends when it is parked.
        """
        async with self._device.lent_to(self):
            try:
                return await self._attempt(attempts, method, args)
            except WorkerDied:
                if not self.spec.ends_when_parked:
                    self._processes = self._start()
                raise

    async def _attempt(self, attempts: Attempts, method: str, args: tuple[Any, ...]) -> Any:
        attempts.watch.begin()
        return await self._request(method, args, attempts.watch)

    @property
    def processes(self) -> tuple[WorkerProcess, ...]:
        """Return its processes, one per rank; empty while there are none and the next call will start them."""
        return tuple(self._processes)

    def is_served_by(self, processes: Sequence[WorkerProcess]) -> bool:
        """Return whether these are its processes, and alive."""
        return self.processes == tuple(processes) and all(process.is_alive for process in processes)

    @property
    def has_device(self) -> bool:
        """Return whether the device works for no other worker now."""
        return self._device.is_free_for(self)

    async def park(self) -> None:
        """Make the target release the device; if it cannot, end its processes, which releases the device too."""
        if self.spec.ends_when_parked:
            self.close()
        if not self._processes:
            return
        try:
            await self._request("park", (), ProgressWatch(None, self._limits))
        except (WorkerDied, RemoteError, UserError) as error:
            logger.warning("%s.park: %s; its process is ended instead", self.name, error)

    def close(self) -> None:
        """End the processes and wait until they are gone; must not be used during a call."""
        for process in self._processes:
            process.kill()
        self._processes, self.has_answered = (), False

    async def give_way(self) -> bool:
        """End its processes, so that another worker's can start in their place; return False if it has none or is busy."""
        if not self._processes or self._device.is_busy or any(process.lacks_place for process in self._processes):
            return False
        logger.warning("%s: its process is ended, because another worker waits for a place", self.name)
        async with self._device.lent_to(self):
            if self.has_answered:  # else there is nothing to save, and the target would be built for this request
                await self.park()
            self.close()
        return True

    async def _request(self, method: str, args: tuple[Any, ...], watch: ProgressWatch) -> Any:
        """Ask all ranks and return rank 0's value; if a rank raises, dies or hangs, end all processes."""
        if not self._processes:
            self._processes = self._start()
        tasks = [asyncio.create_task(self._ask(process, method, args)) for process in self._processes]
        try:
            done, others = await self._answered(tasks, watch)
            if others:  # another rank's death may have caused the error, and may be seen later than the error
                done |= (await asyncio.wait(others, timeout=DEATH_SEEN_SECONDS))[0]
            errors = [error for task in done if (error := task.exception())]
            if errors:
                raise next((error for error in errors if isinstance(error, WorkerDied)), errors[0])
            self.has_answered = True
            return tasks[0].result()
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()
            raise

    async def _answered(
        self, tasks: list[asyncio.Task[Any]], watch: ProgressWatch
    ) -> tuple[set[asyncio.Task[Any]], set[asyncio.Task[Any]]]:
        """Return the finished and the other tasks once all have ended or one has failed; raises WorkerDied if they hang."""
        while True:
            done, others = await asyncio.wait(tasks, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            if not others or any(task.exception() for task in done):
                return done, others
            if any(process.lacks_place for process in self._processes):
                watch.begin()
                for other in self.others:
                    if await other.give_way():
                        break
            elif complaint := watch.complaint():
                raise WorkerDied(complaint, self._processes[0].log_path)

    async def _ask(self, process: WorkerProcess, method: str, args: tuple[Any, ...]) -> Any:
        reply = await process.request(method, args)
        if isinstance(reply, Returned):
            return reply.value
        if reply.kind == ErrorKind.USER:
            raise UserError(reply.message)
        message = f"{self.name}.{method}: {reply.type_name}: {reply.message} (log: {process.log_path})"
        error = RemoteError(message, reply.kind)
        error.add_note(reply.traceback)
        raise error

    def _start(self) -> Sequence[WorkerProcess]:
        return self._backend.start(self.spec, self.name)


def _last_lines(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(nothing: the process died before it opened its log)"
    return "\n".join(lines[-QUOTED_LINES:])
