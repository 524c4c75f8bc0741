"""Opens the backend that the command line names."""

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager

from mathsft.errors import UserError
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.backend import Backend
from mathsft.workers.machine import Machine
from mathsft.workers.spawn import SpawnBackend


@contextmanager
def opened_backend(arguments: argparse.Namespace, heartbeat: Heartbeat) -> Iterator[Backend]:
    """Open the backend of --backend; raises UserError if it cannot be used."""
    if arguments.backend == "spawn" and arguments.address is not None:
        raise UserError(f"--address {arguments.address}: only a Ray cluster has an address; add --backend ray")
    if arguments.backend == "spawn":
        backend: Backend = SpawnBackend()
    else:
        from mathsft.workers.ray_backend import RayBackend

        with heartbeat.during(f"connecting to Ray at {arguments.address}" if arguments.address else "starting Ray"):
            backend = RayBackend(arguments.address)
    with closing(backend):
        yield backend


def nodes_of(backend: Backend) -> tuple[Machine, ...]:
    """Return the nodes of a cluster; none for this machine."""
    return backend.machines if backend.is_cluster else ()


def backend_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that give another command the same backend; none if this command has no backend."""
    if getattr(arguments, "backend", "spawn") == "spawn":
        return []
    return ["--backend", arguments.backend, *(["--address", arguments.address] if arguments.address else [])]
