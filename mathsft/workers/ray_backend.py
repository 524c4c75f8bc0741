"""The backend for a Ray cluster: each worker is an actor, which starts the worker's processes on its node.

Ray is imported when the backend is made: few users install it, and it reads the environment during its import.
"""

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.worker_settings import Needs, WorkerSpec
from mathsft.workers.backend import WorkerDied, WorkerProcess
from mathsft.workers.cluster_room import without_room
from mathsft.workers.host import Reply
from mathsft.workers.machine import Machine
from mathsft.workers.ray_host import Ended, NodeProbe, RayHost, SharedFile, folder_refusal, probe_node
from mathsft.workers.spawn import environment, rank_names
from mathsft.workers.usage import UsageReading

LOCAL_ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With it a local Ray listens on loopback only, by default on all interfaces."""
RAY_ENV = {
    "RAY_AUTH_MODE": "token",  # who reaches a port of Ray without the token cannot run code
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what the next versions of Ray do; without it Ray prints a warning
}
"""Set before Ray's import, unless the user has set them."""
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_FILE = Path(".ray/auth_token")
"""In the home folder; RAY_AUTH_TOKEN_PATH names another one."""
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 2**27
"""Of a local Ray, whose objects are small: requests and replies."""
CONNECT_SECONDS = 10
PROBE_SECONDS = 120
END_SECONDS = 10
"""Longest wait until the processes of a worker that is closed have ended."""
USAGE_SECONDS = 5
START_SECONDS = 180
"""A process that has not started after this time lacks a place, although no worker of this driver takes the room."""


class RayBackend:
    """Starts workers in a local Ray, which ends with this process, or in a running cluster."""

    is_cluster = True

    def __init__(self, address: str | None) -> None:
        """Connect; raises UserError if Ray is missing or the cluster cannot be used."""
        if find_spec("ray") is None:
            raise UserError("--backend ray: the package ray is missing; install it: pip install 'mathsft[ray]'")
        for name, value in RAY_ENV.items():
            os.environ.setdefault(name, value)
        if address is None:
            os.environ.update(LOCAL_ENV)
            os.environ.setdefault(TOKEN, secrets.token_hex(32))
        elif os.environ["RAY_AUTH_MODE"] == "token" and not _has_token():
            raise UserError(
                f"--address {address}: this cluster's token is missing; put it into {TOKEN} or ~/{TOKEN_FILE}, or, if the "
                "cluster has no token and its network is trusted, set RAY_AUTH_MODE=disabled"
            )
        if address is not None:
            _check_reachable(address)
        import ray

        self.ray = ray
        options: dict[str, Any] = {"address": address}
        if address is None:
            options = {
                "address": "local",  # not that of a cluster that RAY_ADDRESS names
                "_node_ip_address": LOOPBACK,
                "include_dashboard": False,
                "num_cpus": len(os.sched_getaffinity(0)),
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        # On this machine, where a local Ray imports what this process would; elsewhere mathsft is installed.
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if address is None else {}
        try:
            with environment(paths):
                ray.init(**options, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
            place = f"--address {address}" if address else "--backend ray"
            raise UserError(f"{place}: Ray cannot be used: {_first_line(error)}") from None
        # Else Ray prints a page for each lost node, which is in its logs, too. Ray's debugger silences it in the same way.
        ray._private.worker._worker_logs_enabled = False
        self._host, self._probes = ray.remote(RayHost), dict[str, NodeProbe]()
        self.actors: list[Actor] = []
        """Those that have not been killed, in the order in which they were made."""
        self._shared: SharedFile | None = None

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Return the present nodes, with the processor cores and CUDA devices that Ray may use."""
        nodes = self._nodes()
        machines = [self._seen_by_ray(node) for node in nodes if node["Resources"].get("CPU")]
        if not machines:
            raise UserError("--backend ray: no node of the cluster offers a CPU; add a node, or start one with --num-cpus")
        return tuple(machines)

    def share(self, layout: StudyLayout) -> int:
        """Check that all nodes see the study's folder; nodes that join later are checked by their first worker."""
        nonce = secrets.token_hex(16)
        self._shared = SharedFile(layout.shared_file(nonce), nonce)
        try:
            layout.root.mkdir(parents=True, exist_ok=True)
            self._shared.path.write_text(nonce, encoding="ascii")
        except OSError as error:
            raise UserError(
                f"study folder {layout.root}: cannot be written ({error.strerror}); start in a folder that all nodes share"
            ) from None
        nodes = self._nodes()
        refusals = [self._ask(node, folder_refusal, self._shared) for node in nodes]
        if refusal := next(filter(None, refusals), None):
            raise UserError(refusal)
        return len({self._probe(node).computer for node in nodes})

    def start(self, spec: WorkerSpec, name: str) -> "list[RayProcess]":
        """Ask Ray for an actor; it starts on the node that Ray chooses as soon as one has room for it."""
        assert spec.needs is not None
        resources = {"num_cpus": spec.needs.num_cpus, "num_gpus": spec.needs.num_gpus}
        # Spread: a lost node should take few workers with it. Never restarted by Ray: Worker replaces what has ended.
        options = self._host.options(**resources, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
        actor = Actor(self.ray, name, options.remote(spec, name, str(Path.cwd()), self._shared), spec.needs)
        self.actors.append(actor)
        logs = [spec.settings.layout.log(rank_name) for rank_name in rank_names(spec, name)]
        return [RayProcess(self, actor, rank, log) for rank, log in enumerate(logs)]

    async def usage(self, processes: Sequence[WorkerProcess], visible: str | None) -> UsageReading | None:
        """Return what the worker's node reads; the names of the devices are the node's own."""
        actors = [process.actor.handle for process in processes if isinstance(process, RayProcess) and process.pid]
        try:
            reading = asyncio.wait_for(actors[0].usage.remote(bool(visible)), USAGE_SECONDS) if actors else None
            return await reading if reading is not None else None
        except (TimeoutError, self.ray.exceptions.RayError):  # the call itself says that a node is lost
            return None

    def close(self) -> None:
        """Leave the cluster; end a local Ray."""
        if self._shared is not None:
            self._shared.path.unlink(missing_ok=True)
        self.ray.shutdown()

    def kill(self, actor: "Actor") -> None:
        """End the worker's processes and the actor, wherever it is."""
        if actor in self.actors:
            self.actors.remove(actor)
        if actor.has_started:
            with suppress(self.ray.exceptions.RayError):
                self.ray.get(actor.handle.end.remote(), timeout=END_SECONDS)
        self.ray.kill(actor.handle, no_restart=True)

    def is_full_for(self, actor: "Actor") -> bool:
        """Return whether the workers of this driver leave no room for an actor that has not started."""
        offers = {node["NodeID"]: _offer(node) for node in self._nodes()}
        waiting = [other for other in self.actors if not other.has_started]
        placed = [(other.node, other.needs) for other in self.actors if other.has_started]
        without = without_room(offers, placed, [other.needs for other in waiting])
        return actor in waiting and waiting.index(actor) in without

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _probe(self, node: dict[str, Any]) -> NodeProbe:
        if node["NodeID"] not in self._probes:
            self._probes[node["NodeID"]] = self._ask(node, probe_node)
        return self._probes[node["NodeID"]]

    def _seen_by_ray(self, node: dict[str, Any]) -> Machine:
        offer, machine = _offer(node), self._probe(node).machine
        return replace(
            machine,
            name=node["NodeManagerHostname"],
            cpus=tuple(range(max(1, int(offer.num_cpus)))),
            cuda=machine.cuda[: int(offer.num_gpus)],
        )

    def _ask(self, node: dict[str, Any], question: Any, *args: Any) -> Any:
        """Return a function's answer on a node; raises UserError if the node cannot answer."""
        strategies = self.ray.util.scheduling_strategies
        there = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = self.ray.remote(question).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        try:
            return self.ray.get(remote.remote(*args), timeout=PROBE_SECONDS)
        except self.ray.exceptions.RayError as error:
            raise UserError(
                f"node {node['NodeManagerHostname']}: cannot run mathsft: {_first_line(error)}; install the same versions "
                "of Python, Ray and mathsft on all nodes"
            ) from None


class Actor:
    """A worker's actor, on a node of the cluster, or without one until a node has room for it."""

    def __init__(self, ray: Any, name: str, handle: Any, needs: Needs) -> None:
        self._ray, self.name, self.handle, self.needs = ray, name, handle, needs
        self.asked_at, self._start = time.monotonic(), handle.start.remote(0)

    @property
    def has_started(self) -> bool:
        """Return whether it is or was on a node."""
        return _is_ready(self._ray, self._start)

    @cached_property
    def node(self) -> str:
        """Return the id of the node of an actor that has started; empty if it ended before it could tell."""
        try:
            return str(self._ray.get(self._start)[1])
        except self._ray.exceptions.RayError:
            return ""


class RayProcess:
    """One rank of a worker in the cluster."""

    def __init__(self, backend: RayBackend, actor: Actor, rank: int, log_path: Path) -> None:
        self._backend, self._ray, self.actor, self._rank = backend, backend.ray, actor, rank
        self.log_path = log_path
        self._start, self._ended = actor.handle.start.remote(rank), actor.handle.ended.remote(rank)

    @property
    def pid(self) -> int:
        """Return its id on its node; 0 before it has started, and if its actor ended before it could tell."""
        if not _is_ready(self._ray, self._start):
            return 0
        try:
            return int(self._ray.get(self._start)[0])
        except self._ray.exceptions.RayError:
            return 0

    @property
    def is_alive(self) -> bool:
        """Return whether it has not ended; Ray takes some seconds to notice that a node is lost."""
        return not _is_ready(self._ray, self._ended)

    @property
    def lacks_place(self) -> bool:
        """Return whether its actor waits for a node with room."""
        if self.actor.has_started:
            return False
        return time.monotonic() - self.actor.asked_at > START_SECONDS or self._backend.is_full_for(self.actor)

    async def request(self, method: str, args: tuple[Any, ...]) -> Reply:
        """Return the target's reply; raises WorkerDied if the process, its actor or its node is lost."""
        errors = self._ray.exceptions
        try:
            reply: Reply | Ended = await self.actor.handle.request.remote(self._rank, method, args)
        except errors.RayTaskError:  # an error in the actor's own code
            raise
        except errors.RayError as error:
            raise WorkerDied(_first_line(error), self.log_path) from None
        if isinstance(reply, Ended):
            raise WorkerDied(reply.how, self.log_path)
        return reply

    def kill(self) -> None:
        """End all ranks of the worker, and wait until they are gone, unless their node is lost."""
        self._backend.kill(self.actor)


def _is_ready(ray: Any, reference: Any) -> bool:
    ready, _ = ray.wait([reference], timeout=0)
    return bool(ready)


def _offer(node: dict[str, Any]) -> Needs:
    return Needs(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))


def _check_reachable(address: str) -> None:
    """Raise UserError unless something listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto" or "://" in address:
        return
    try:
        with socket.create_connection((host, int(port)), CONNECT_SECONDS):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({error}); give auto on a node of the cluster, or the "
            "HOST:PORT that `ray start --head` printed"
        ) from None


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(os.environ.get(TOKEN)) or (Path(named) if named else Path.home() / TOKEN_FILE).is_file()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
