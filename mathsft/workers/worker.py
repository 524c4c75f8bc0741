"""A worker as the driver sees it: ranks, turns on a shared device, and a new process for one that died.

It does not know how a process is started (spawn.py) nor what its target does.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from mathsft.config.schema import LimitSettings
from mathsft.errors import ErrorKind, UserError
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.host import Reply, Returned
from mathsft.workers.watch import Watch

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Deaths of a worker's process in one call, none of which got further than those before, until the call is given up."""
LOOK_SECONDS = 1
"""How often a worker that is at work is looked at."""
DEATH_SEEN_SECONDS = 1
"""How long an error of one rank waits for the death of another that may be its cause."""
QUOTED_LINES = 20
"""Last lines of a worker's log in the error that gives it up."""


class WorkerDied(Exception):  # noqa: N818 - what happened, not an error of the code
    """A process ended before it replied; log_path is its log."""

    def __init__(self, how: str, log_path: Path) -> None:
        super().__init__(f"{how} (log: {log_path})")
        self.log_path = log_path


class RemoteError(Exception):
    """The target's code raised an error; its traceback is a note of this one. Asking again would raise it again."""

    def __init__(self, message: str, kind: ErrorKind) -> None:
        super().__init__(message)
        self.kind = kind


class Failed(Exception):  # noqa: N818 - the word that runs and reports use
    """The worker died in every attempt to answer a call."""


class WorkerProcess(Protocol):
    """One process of a worker, started when made."""

    log_path: Path
    pid: int

    async def request(self, method: str, args: tuple[Any, ...]) -> Reply:
        """Return the target's reply; raises WorkerDied. After a cancelled request only `kill` may follow."""

    def kill(self) -> None:
        """End the process and wait until it is gone, its memory with it."""


ProcessFactory: TypeAlias = Callable[[WorkerSpec, str], WorkerProcess]
"""Starts the process that a spec describes, under a name that its log is called by."""


class Device:
    """What workers take turns on: one is awake at a time, and whoever was awake before is parked first."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._awake: Worker | None = None

    @asynccontextmanager
    async def lent_to(self, worker: "Worker") -> AsyncIterator[None]:
        """Wait for the device, then hold it while the body runs."""
        async with self._lock:
            if self._awake not in (None, worker):
                await self._awake.park()
            self._awake = worker
            yield

    def is_free_for(self, worker: "Worker") -> bool:
        """Tell whether the worker has the device, or nobody has."""
        return not self._lock.locked() or self._awake is worker


class Worker:
    """One target in one process, or in several as ranks of one group; these start when it is made or has its first turn."""

    def __init__(
        self, start_process: ProcessFactory, spec: WorkerSpec, name: str, device: Device, limits: LimitSettings
    ) -> None:
        self._start_process, self.spec, self.name, self._device = start_process, spec, name, device
        self._limits = limits
        self._has_answered = False
        self._processes = [] if spec.ends_when_parked else self._start()

    async def call(self, method: str, *args: Any, progress: Path | None = None) -> Any:
        """Return what the target's method returns (rank 0's, where there are ranks); methods must be idempotent.

        A process that dies is replaced and asked again, and so is one that hangs: that does not change the file
        `progress` within the limits. Raises Failed after ATTEMPTS deaths at which the file never got longer than before,
        RemoteError for an error in the target's code, and the target's own UserError. A call that is cancelled or fails
        leaves no process behind that could reply late or work on with a broken state: the next call starts a new one.
        """
        async with self._device.lent_to(self):
            watch, num_deaths = Watch(progress, self._limits), 0
            while True:
                watch.begin()
                try:
                    return await self._request(method, args, watch)
                except WorkerDied as death:
                    num_deaths = 1 if watch.got_further() else num_deaths + 1
                    if num_deaths == ATTEMPTS:
                        raise Failed(
                            f"{self.name}.{method}: the worker died {ATTEMPTS} times without getting further; at last: "
                            f"{death}; the log ends with\n" + _last_lines(death.log_path)
                        ) from death
                    logger.warning("%s: %s; attempt %d of %d begins", self.name, death, num_deaths + 1, ATTEMPTS)

    @property
    def pids(self) -> tuple[int, ...]:
        """Return its processes, one a rank; none where they ended and the next call will start others."""
        return tuple(process.pid for process in self._processes)

    @property
    def has_answered(self) -> bool:
        """Tell whether its processes answered before: until they do, they are busy with imports and models."""
        return self._has_answered

    @property
    def has_device(self) -> bool:
        """Tell whether what the device does now it does for this worker, should this one be asked for anything."""
        return self._device.is_free_for(self)

    async def park(self) -> None:
        """Have the target leave the device to others; a target that cannot do so loses its process, which does it too."""
        if self.spec.ends_when_parked:
            self.close()
        if not self._processes:
            return
        try:
            await self._request("park", (), Watch(None, self._limits))
        except (WorkerDied, RemoteError, UserError) as error:
            logger.warning("%s.park: %s; its process is ended instead", self.name, error)

    def close(self) -> None:
        """End the processes and wait until they are gone; not while a call is under way."""
        for process in self._processes:
            process.kill()
        self._processes, self._has_answered = [], False

    async def _request(self, method: str, args: tuple[Any, ...], watch: Watch) -> Any:
        """Ask all ranks and return rank 0's reply; unless every rank replies well and in time, all processes end."""
        if not self._processes:
            self._processes = self._start()
        tasks = [asyncio.create_task(self._ask(process, method, args)) for process in self._processes]
        try:
            done, others = await self._answered(tasks, watch)
            if others:  # when a rank dies, another may be faster to tell that it was left alone than the death is seen
                done |= (await asyncio.wait(others, timeout=DEATH_SEEN_SECONDS))[0]
            errors = [error for task in done if (error := task.exception())]
            if errors:
                raise next((error for error in errors if isinstance(error, WorkerDied)), errors[0])
            self._has_answered = True
            return tasks[0].result()
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()
            raise

    async def _answered(
        self, tasks: list[asyncio.Task[Any]], watch: Watch
    ) -> tuple[set[asyncio.Task[Any]], set[asyncio.Task[Any]]]:
        """Return the tasks that are done and the others, once all are or one has failed; WorkerDied if they hang."""
        while True:
            done, others = await asyncio.wait(tasks, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            if not others or any(task.exception() for task in done):
                return done, others
            if complaint := watch.complaint():
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

    def _start(self) -> list[WorkerProcess]:
        num_ranks = self.spec.ranks
        group = {"WORLD_SIZE": str(num_ranks), "LOCAL_RANK": "0"}  # each rank sees one device only, its number 0
        if num_ranks > 1:
            # A new port each time: the last group's may still be taken. Loopback, whatever the host's name resolves to.
            group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        processes = []
        for rank in range(num_ranks):
            of_rank = self.spec.rank_env[rank] if self.spec.rank_env else {}
            spec = replace(self.spec, env={**self.spec.env, **of_rank, **group, "RANK": str(rank)})
            name = self.name if num_ranks == 1 else f"{self.name}-rank{rank}"
            processes.append(self._start_process(spec, name))
        return processes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _last_lines(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(nothing: the process died before it opened its log)"
    return "\n".join(lines[-QUOTED_LINES:])
