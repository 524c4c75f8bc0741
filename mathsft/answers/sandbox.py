"""Compares pairs of answers with math-verify in killable processes, because sympy may never return or use all memory.

Each process runs the script `sandboxed`.
"""

import json
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mathsft.answers.sandboxed import MAX_MESSAGE_BYTES

_SCRIPT = Path(__file__).with_name("sandboxed.py")
_START_SECONDS = 120
_WARM_UP_INDEX = -1


class Pair(NamedTuple):
    """An answer and the gold answer that it is compared with."""

    answer: str
    gold: str


@dataclass(frozen=True)
class Ruling:
    """The result of comparing a pair."""

    is_equal: bool | None
    """None if the pair is undecided."""
    reason: str = ""
    """Why the pair is undecided: its process was killed, died or needed too much memory."""
    seconds: float = 0.0


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
    """Processes that compare pairs; they start when the first pair comes, and a killed process is replaced.

    They are not forked, because this process may hold a CUDA context. The kernel kills them when the thread that started
    them ends: call `judge` from one thread only, and keep that thread alive until `close`.
    """

    def __init__(self, num_processes: int = 1, limits: Limits | None = None) -> None:
        self._num_processes = num_processes
        self._limits = limits or Limits()
        self._processes: list[_GraderProcess] = []

    def judge(self, pairs: Sequence[Pair]) -> list[Ruling]:
        """Return a ruling for each pair, in order; raises RuntimeError if a process fails on its warm-up pair."""
        rulings: dict[int, Ruling] = {}
        waiting = deque(enumerate(pairs))
        self._processes = [process for process in self._processes if process.is_alive()]
        try:
            while len(rulings) < len(pairs):
                while len(self._processes) < min(self._num_processes, len(pairs) - len(rulings)):
                    self._processes.append(_GraderProcess(self._limits))
                for process in self._processes:
                    if process.index is None and waiting:
                        process.send(*waiting.popleft(), self._limits.wall_seconds)
                for process in self._ready_processes():
                    index, ruling = process.index, process.finish()
                    if ruling.is_equal is None:
                        self._processes.remove(process)
                    if index == _WARM_UP_INDEX and not ruling.is_equal:
                        raise RuntimeError(f"math-verify fails in a separate process: {ruling.reason or 'wrong verdict'}")
                    if index is not None and index != _WARM_UP_INDEX:
                        rulings[index] = ruling
        except BaseException:
            # The next call must not receive a late answer to a pair of this call.
            self.close()
            raise
        return [rulings[index] for index in range(len(pairs))]

    def close(self) -> None:
        """Kill all processes; a later call of `judge` starts new ones."""
        for process in self._processes:
            process.kill()
        self._processes.clear()

    def _ready_processes(self) -> list["_GraderProcess"]:
        """Wait until processes have answered, ended or become overdue, and return these."""
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                selector.register(process.channel, selectors.EVENT_READ)
            next_deadline = min(process.deadline for process in self._processes)
            events = selector.select(max(0.0, next_deadline - time.monotonic()))
        readable = {key.fileobj for key, _ in events}
        now = time.monotonic()
        return [process for process in self._processes if process.channel in readable or process.deadline <= now]


class _GraderProcess:
    """A process that runs math-verify, and the index of the pair that it compares."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # This socket type keeps message boundaries, even if the process behaves badly.
        self.channel, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (os.getpid(), limits.cpu_seconds, limits.memory_bytes)
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), *map(str, arguments)],
                stdin=child_end.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # makes sympy's order of terms, and so its verdicts, reproducible
                start_new_session=True,  # so that Ctrl-C reaches this process only
            )
        self.send(_WARM_UP_INDEX, _WARM_UP, _START_SECONDS)

    def is_alive(self) -> bool:
        """Return whether the process still runs; release its resources if it does not."""
        if self._process.poll() is None:
            return True
        self.kill()
        return False

    def send(self, index: int, pair: Pair, seconds: float) -> None:
        """Send a pair to the idle process, which must answer within the given time."""
        self.index: int | None = index
        self._sent = time.monotonic()
        self.deadline = self._sent + seconds
        with suppress(ConnectionError):  # the process has just ended; `finish` detects this
            self.channel.send(json.dumps(pair).encode())

    def finish(self) -> Ruling:
        """Return the ruling on the current pair; a process that gave no verdict is killed."""
        seconds, allowed_seconds = time.monotonic() - self._sent, self.deadline - self._sent
        self.index, self.deadline = None, math.inf
        try:
            message = self.channel.recv(MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self.kill()
            return Ruling(None, f"took longer than {allowed_seconds:g} s", seconds)
        except ConnectionError:
            message = b""
        if message in (b"true", b"false"):
            return Ruling(message == b"true", seconds=seconds)
        self.kill()
        memory_reason = f"needed more than {self._limits.memory_bytes / 2**20:.0f} MiB of memory"
        return Ruling(None, memory_reason if message else self._end_reason(), seconds)

    def kill(self) -> None:
        """Kill the process if it still runs, and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        self.channel.close()

    def _end_reason(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return f"needed more than {self._limits.cpu_seconds} s of processor time"
        return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
