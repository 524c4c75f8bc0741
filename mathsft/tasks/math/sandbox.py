"""Compares pairs of answers with math-verify in killable processes, because sympy may never return or use all memory.

Each process runs the script `sandboxed`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident

from mathsft.tasks.math.sandboxed import MAX_MESSAGE_BYTES
from mathsft.tasks.task import Pair, Ruling

_SCRIPT = Path(__file__).with_name("sandboxed.py")
_START_SECONDS = 120


@dataclass(frozen=True)
class Limits:
    """Limits for one pair; a process that exceeds one of them is killed."""

    cpu_seconds: int = 2
    """The kernel counts whole seconds, so a process may use up to one second more."""
    wall_seconds: float = 5.0
    memory_bytes: int = 512 * 2**20
    """Limit of the address space, checked after each pair; allocations beyond twice this size fail."""


_WARM_UP = Pair(r"\sqrt{8}x", r"2\sqrt{2}x")
"""The first pair of every process, known to be equal, so that no other pair's time includes imports and first calls."""


class Sandbox:
    """Processes that compare pairs; they start when the first pairs come, and a killed process is replaced.

    They are not forked, because this process may hold a CUDA context. Each has a thread, which starts it and waits for it;
    the kernel kills the process when the thread ends, also if this process is killed.
    """

    def __init__(self, num_processes: int = 1, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._threads = ThreadPoolExecutor(num_processes)
        self._processes: dict[int, _GraderProcess] = {}

    def judge(self, pairs: Sequence[Pair]) -> list[Ruling]:
        """Return a ruling for each pair, in order; raises RuntimeError if a process fails on its warm-up pair."""
        try:
            return list(self._threads.map(self._judge, pairs))
        except BaseException:
            self.close()  # otherwise an interrupted call would wait for the pairs that it had begun
            raise

    def close(self) -> None:
        """Kill all processes; a later call of `judge` starts new ones."""
        for process in list(self._processes.values()):
            process.kill()

    def _judge(self, pair: Pair) -> Ruling:
        process = self._processes.get(get_ident())
        if process is None or not process.is_alive():
            process = self._processes[get_ident()] = _GraderProcess(self._limits)
            ruling = process.judge(_WARM_UP, _START_SECONDS)
            if not ruling.is_equal:
                raise RuntimeError(f"math-verify fails in a separate process: {ruling.reason or 'wrong verdict'}")
        return process.judge(pair, self._limits.wall_seconds)


class _GraderProcess:
    """A process that runs math-verify."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # This socket type keeps message boundaries, even if the process behaves badly.
        self._channel, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (os.getpid(), limits.cpu_seconds, limits.memory_bytes)
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), *map(str, arguments)],
                stdin=child_end.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # makes sympy's order of terms, and so its verdicts, reproducible
                start_new_session=True,  # so that Ctrl-C reaches this process only
            )

    def is_alive(self) -> bool:
        """Return whether the process still runs; release its resources if it does not."""
        if self._process.poll() is None:
            return True
        self.kill()
        return False

    def judge(self, pair: Pair, seconds: float) -> Ruling:
        """Return the ruling on a pair; a process that gives no verdict within the given time is killed."""
        started = time.monotonic()
        self._channel.settimeout(seconds)
        try:
            self._channel.send(json.dumps(pair).encode())
            message: bytes | None = self._channel.recv(MAX_MESSAGE_BYTES)
        except TimeoutError:
            message = None
        except ConnectionError:  # the process has ended
            message = b""
        taken_seconds = time.monotonic() - started
        if message in (b"true", b"false"):
            return Ruling(message == b"true", seconds=taken_seconds)
        self.kill()
        if message is None:
            reason = f"took longer than {seconds:g} s"
        elif message:
            reason = f"needed more than {self._limits.memory_bytes / 2**20:.0f} MiB of memory"
        elif (code := self._process.returncode) == -signal.SIGXCPU:
            reason = f"needed more than {self._limits.cpu_seconds} s of processor time"
        elif code < 0:
            reason = f"its process was killed by {signal.Signals(-code).name}"
        else:
            reason = f"its process ended with {code}"
        return Ruling(None, reason, taken_seconds)

    def kill(self) -> None:
        """Kill the process if it still runs, and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
