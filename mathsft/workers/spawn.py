"""The backend for this machine: processes that are started with multiprocessing's spawn method and called over a pipe."""

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any

from mathsft.layout import StudyLayout
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.backend import WorkerDied, WorkerProcess
from mathsft.workers.host import Reply, serve
from mathsft.workers.machine import Machine, detect_machine
from mathsft.workers.usage import Nvml, UsageReading, read_processes

EXIT_WAIT_SECONDS = 5
"""How long to wait for the exit code of a process that closed its pipe."""


class SpawnBackend:
    """Starts processes on this machine."""

    is_cluster = False

    def __init__(self) -> None:
        self._nvml: Nvml | None = None

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Return this machine."""
        return (detect_machine(),)

    def share(self, layout: StudyLayout) -> int:
        """Return 1: all processes are on this machine."""
        return 1

    def start(self, spec: WorkerSpec, name: str) -> "list[SpawnProcess]":
        """Start the worker's processes, one for each rank, which find each other at a port of this machine."""
        num_ranks = spec.ranks
        group = {"WORLD_SIZE": str(num_ranks)}
        if num_ranks > 1:
            # A new port each time: the last group's may be in use. Loopback: the host's name may stand for another address.
            group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        processes = []
        for rank, rank_name in enumerate(rank_names(spec, name)):
            rank_spec = replace(spec, env={**spec.env, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            processes.append(SpawnProcess(rank_spec, rank_name))
        return processes

    async def usage(self, processes: Sequence[WorkerProcess], visible: str | None) -> UsageReading:
        """Return what processes of this machine, which need not be children, and CUDA devices use now."""
        if visible and self._nvml is None:
            self._nvml = Nvml()
        device = self._nvml.read(visible) if self._nvml is not None and visible else None
        return UsageReading(*read_processes([process.pid for process in processes]), device)

    def close(self) -> None:
        """Close NVIDIA's library, if it is open."""
        if self._nvml is not None:
            self._nvml.close()
        self._nvml = None


def rank_names(spec: WorkerSpec, name: str) -> list[str]:
    """Return the names of a worker's processes, which are those of their logs."""
    return [name] if spec.ranks == 1 else [f"{name}-rank{rank}" for rank in range(spec.ranks)]


class SpawnProcess:
    """A child process with the spec's environment and cores; only the driver's main thread may make one.

    The kernel kills the child when the thread that started it ends, not only when the driver ends.
    """

    lacks_place = False

    def __init__(self, spec: WorkerSpec, name: str) -> None:
        self.log_path = spec.settings.layout.log(name)
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        # Not daemonic, because the child starts processes.
        self._process = context.Process(target=serve, args=(child_pipe, spec, name, os.getpid()), name=name, daemon=False)
        # The resource tracker warns when it frees the semaphores of a killed process; workers are always ended by a kill.
        with environment({"PYTHONWARNINGS": "ignore:resource_tracker"}):
            resource_tracker.ensure_running()
        with environment(spec.env), _interrupts_blocked():
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        child_pipe.close()  # else the pipe would stay open after the child's death

    @property
    def is_alive(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.is_alive()

    async def request(self, method: str, args: tuple[Any, ...]) -> Reply:
        """Return the target's reply; raises WorkerDied. After a cancelled request only `kill` may be called."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            self._pipe.send((method, args))
            loop.add_reader(self._pipe.fileno(), readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._pipe.fileno())
            reply: Reply = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._end(), self.log_path) from None
        return reply

    def kill(self) -> None:
        """Kill the process, unless it has ended, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _end(self) -> str:
        """Return in words how the process ended."""
        self._process.join(EXIT_WAIT_SECONDS)
        exit_code = self._process.exitcode
        if exit_code is None:
            return f"process {self._process.pid} closed its pipe"
        ending = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
        return f"process {self._process.pid} {ending}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def environment(env: Mapping[str, str]) -> Iterator[None]:
    """Set variables in this process while the body runs; a child needs some of them before its first instruction."""
    before = {key: os.environ.get(key) for key in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while the body starts a child, which cannot ignore it yet; this process receives it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
