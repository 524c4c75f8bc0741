"""Runs inside a worker's process: builds the target and answers requests with it, one at a time.

Errors are sent back as data, and the driver decides what follows.
"""

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeAlias

from mathsft.errors import ErrorKind
from mathsft.worker_settings import WorkerSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Returned:
    """The value that the target's method returned."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The error that the target raised."""

    kind: ErrorKind
    type_name: str
    message: str
    traceback: str


Reply: TypeAlias = Returned | Raised


def serve(pipe: Connection, spec: WorkerSpec, name: str, driver_pid: int) -> None:
    """Answer each (method, arguments) from the pipe until it is closed; the main function of a worker's process.

    It imports the module of the target "module:Class" at once and builds Class(settings) for the first request. A target
    raises SystemExit when its process is in a broken state: the process ends, and the driver starts another.
    """
    die_with(driver_pid)
    _ignore_interrupts()
    if spec.cpus:
        os.sched_setaffinity(0, spec.cpus)  # before the imports: OpenMP counts its cores when it is loaded
    _write_output_to(spec.settings.layout.log(name))
    logger.info("%s: process %d serves %s", name, os.getpid(), spec.target)
    instance: Any = None

    def call(target_class: type, method: str, args: tuple[Any, ...]) -> Any:
        nonlocal instance
        if instance is None:
            instance = target_class(spec.settings)
        return getattr(instance, method)(*args)

    try:
        # Importing torch and vllm takes long, so it starts before the first request; an import error is kept as the reply.
        imported = _attempt(partial(resolve_name, spec.target))
        while True:
            try:
                method, args = pipe.recv()
            except EOFError:
                return
            pipe.send(_attempt(partial(call, imported.value, method, args)) if isinstance(imported, Returned) else imported)
    except BaseException:
        logger.exception("%s: process %d ends", name, os.getpid())
        # An orderly exit would first wait for the target's own threads and child processes, which may hang.
        os._exit(1)


def _attempt(action: Callable[[], Any]) -> Reply:
    try:
        return Returned(action())
    except Exception as error:
        kind = ErrorKind.of(error)
        if kind != ErrorKind.USER:
            logger.exception("the request failed")
        return Raised(kind, type(error).__name__, str(error), traceback.format_exc())


def die_with(driver_pid: int) -> None:
    """Make the kernel kill this process when the driver ends for any reason."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != driver_pid:  # the driver ended before prctl took effect
        os._exit(1)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which the terminal sends to every process and only the driver handles; children inherit this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the driver blocked it while it started this process


def _write_output_to(path: Path) -> None:
    """Append stdout, stderr (of C libraries too), logging and the traceback of a crash to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr  # stderr is flushed at every line: a killed process loses no output
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
