"""What runs on the nodes of a Ray cluster: the actor that starts a worker's processes, and the probe of a node."""

import asyncio
import os
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mathsft.errors import ErrorKind, UserError
from mathsft.publication import machine_id
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.backend import WorkerDied
from mathsft.workers.host import Raised, Reply
from mathsft.workers.machine import Machine, detect_machine
from mathsft.workers.spawn import SpawnBackend, SpawnProcess
from mathsft.workers.usage import UsageReading

LOOK_SECONDS = 0.1
ARRIVAL_SECONDS = 30
"""How long a new file may take until another machine sees it on a network disk."""
NOT_INHERITED = ("RAY_AUTH_TOKEN", "OMP_NUM_THREADS")
"""Variables of an actor that its processes must not have: the token, and the number of threads that Ray sets."""


@dataclass(frozen=True)
class SharedFile:
    """A file in a study's folder by which a node proves that it sees the same folder as the driver."""

    path: Path
    nonce: str

    def refusal(self, wait_seconds: float) -> str:
        """Return why this node cannot work in the folder, or an empty string if it can; wait until the file appears."""
        ends = time.monotonic() + wait_seconds
        while True:
            try:
                if self.path.read_text(encoding="ascii") == self.nonce:
                    return ""
            except OSError:
                pass
            if time.monotonic() >= ends:
                return (
                    f"node {socket.gethostname()}: does not see the study's folder {self.path.parent} as the driver does; "
                    "start the driver in a folder that all nodes share under the same path"
                )
            time.sleep(LOOK_SECONDS)


@dataclass(frozen=True)
class Ended:
    """The reply of a process that ended instead: how, in words."""

    how: str


@dataclass(frozen=True)
class NodeProbe:
    """What a node says of itself."""

    machine: Machine
    computer: str
    """The same for all nodes on one machine."""


def probe_node() -> NodeProbe:
    """Return what this node can do."""
    return NodeProbe(detect_machine(), machine_id())


def folder_refusal(shared: SharedFile) -> str:
    """Return why this node cannot work in the study's folder, or an empty string if it can."""
    return shared.refusal(ARRIVAL_SECONDS)


class RayHost:
    """An actor that starts a worker's processes on its node, as on a machine of their own, and passes requests on.

    The processes end with the actor, however it ends.
    """

    def __init__(self, spec: WorkerSpec, name: str, folder: str, shared: SharedFile | None) -> None:
        import ray

        self._backend, self._processes, self._visible = SpawnBackend(), list[SpawnProcess](), ""
        context = ray.get_runtime_context()
        self._node: str = context.get_node_id()
        # A node that joined after the driver had checked all nodes is checked here.
        self._refusal = shared.refusal(ARRIVAL_SECONDS) if shared is not None else ""
        if self._refusal:
            return
        for variable in NOT_INHERITED:
            os.environ.pop(variable, None)
        os.chdir(folder if Path(folder).is_dir() else "/")  # data may be named by a relative path
        vars(sys.modules["__main__"]).pop("__file__", None)  # else each process would run Ray's main program first
        env = dict(spec.env)
        if spec.needs is not None and spec.needs.num_gpus:
            self._visible = env["CUDA_VISIBLE_DEVICES"] = ",".join(context.get_accelerator_ids()["GPU"])
        self._processes = self._backend.start(replace(spec, env=env), name)

    async def start(self, rank: int) -> tuple[int, str]:
        """Return the id of a rank's process, 0 if there is none, and the id of the node."""
        return (self._processes[rank].pid if self._processes else 0), self._node

    async def request(self, rank: int, method: str, args: tuple[Any, ...]) -> Reply | Ended:
        """Return the reply of a rank's process, or how it ended."""
        if self._refusal:
            return Raised(ErrorKind.USER, UserError.__name__, self._refusal, "")
        try:
            return await self._processes[rank].request(method, args)
        except WorkerDied as death:
            return Ended(death.ending)

    async def ended(self, rank: int) -> None:
        """Return when a rank's process has ended."""
        while self._processes and self._processes[rank].is_alive:
            await asyncio.sleep(LOOK_SECONDS)

    async def usage(self, with_device: bool) -> UsageReading:
        """Return what the processes use now."""
        return await self._backend.usage(self._processes, self._visible if with_device else None)

    async def end(self) -> None:
        """Kill the processes, and wait until they are gone."""
        for process in self._processes:
            process.kill()
