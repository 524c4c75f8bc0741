"""Opens the backend that the command line names, and shares the study's folder with its machines."""

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
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


def share_study(backend: Backend, layout: StudyLayout, storage: str | None) -> None:
    """Check that all machines see the study's folder, and that no SQLite file would lie in a folder that computers share."""
    from mathsft.store.database import Database  # slow to import, and the first line comes before

    num_computers = backend.share(layout)
    if num_computers > 1 and not Database.of(layout, storage).is_server:
        raise UserError(
            f"{layout.root}: {num_computers} computers share this folder, where an SQLite file is not safe; give a database "
            "server: --storage postgresql+psycopg://USER@HOST:5432/DATABASE"
        )


def backend_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that give another command the same backend; none if this command has no backend."""
    if getattr(arguments, "backend", "spawn") == "spawn":
        return []
    return ["--backend", arguments.backend, *(["--address", arguments.address] if arguments.address else [])]
