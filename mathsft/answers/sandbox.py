"""Has math-verify judge pairs of answers in processes that can be killed: sympy may take for ever, or all memory.

What goes on inside a process is `sandboxed`'s business; whether a pair needs sympy at all is decided before it comes here.
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

from mathsft.answers.sandboxed import MAX_MESSAGE_BYTES

_SCRIPT = Path(__file__).with_name("sandboxed.py")
_START_SECONDS = 120
_STARTING = -1


@dataclass(frozen=True)
class Pair:
    """Two answers that may be equal."""

    answer: str
    gold: str


@dataclass(frozen=True)
class Ruling:
    """What became of a pair."""

    is_equal: bool | None
    """None where the judge was stopped or died."""
    reason: str = ""
    """Why there is no answer."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What one pair may take before its process is killed."""

    cpu_seconds: int = 2
    """The kernel counts whole seconds, so that it may be one more."""
    wall_seconds: float = 5.0
    memory_bytes: int = 512 * 2**20
    """Address space; at twice as much, allocations fail."""


_FAMILIAR = Pair(r"\sqrt{8}x", r"2\sqrt{2}x")
"""The first pair of every process, known to be equal: the imports and first uses that it waits for are on nobody's time."""


class Sandbox:
    """Processes that start with the first pair, and again after one was killed; for one thread, which has to outlive them.

    They are new processes, never forks of this one, which may hold CUDA. The kernel kills them when this one ends.
    """

    def __init__(self, num_processes: int = 1, limits: Limits | None = None) -> None:
        self._num_processes = num_processes
        self._limits = limits or Limits()
        self._processes: list[_GraderProcess] = []

    def judge(self, pairs: Sequence[Pair]) -> list[Ruling]:
        """Return a ruling for each pair, in order; raises RuntimeError where a process cannot even start."""
        rulings: dict[int, Ruling] = {}
        waiting = deque(enumerate(pairs))
        self._processes = [process for process in self._processes if process.is_alive()]
        try:
            while len(rulings) < len(pairs):
                while len(self._processes) < min(self._num_processes, len(pairs) - len(rulings)):
                    self._processes.append(_GraderProcess(self._limits))
                for process in self._processes:
                    if process.is_idle and waiting:
                        process.ask(*waiting.popleft())
                for process in self._heard():
                    place, ruling = process.place, process.finish()
                    if ruling.is_equal is None:
                        self._processes.remove(process)
                    if place == _STARTING and not ruling.is_equal:
                        raise RuntimeError(f"math-verify does not run in a process of its own: {ruling.reason or 'wrong'}")
                    if place is not None and place != _STARTING:
                        rulings[place] = ruling
        except BaseException:
            # An answer to this call's pairs must never be taken for one to the next call's.
            self.close()
            raise
        return [rulings[place] for place in range(len(pairs))]

    def close(self) -> None:
        """End all processes; another pair would start new ones."""
        for process in self._processes:
            process.kill()
        self._processes.clear()

    def _heard(self) -> list["_GraderProcess"]:
        """Wait for processes that answer, end or are overdue, and return them."""
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                selector.register(process.channel, selectors.EVENT_READ)
            nearest = min(process.deadline for process in self._processes)
            events = selector.select(max(0.0, nearest - time.monotonic()))
        heard = {key.fileobj for key, _ in events}
        now = time.monotonic()
        return [process for process in self._processes if process.channel in heard or process.deadline <= now]


class _GraderProcess:
    """One process with math-verify in it, and the place of the pair that it is at."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # A packet is a whole message, however hostile its sender.
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (os.getpid(), limits.cpu_seconds, limits.memory_bytes)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), *map(str, arguments)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's order of terms, and so its verdicts, repeat
                start_new_session=True,  # Ctrl-C is this process's business
            )
        self.place: int | None = None
        self.deadline = math.inf
        self._asked = 0.0
        self._ask(_STARTING, _FAMILIAR, _START_SECONDS)

    @property
    def is_idle(self) -> bool:
        return self.place is None

    def is_alive(self) -> bool:
        """Tell whether the process still runs, and free what it held if not."""
        if self._process.poll() is None:
            return True
        self.kill()
        return False

    def ask(self, place: int, pair: Pair) -> None:
        """Give the idle process a pair."""
        self._ask(place, pair, self._limits.wall_seconds)

    def _ask(self, place: int, pair: Pair, seconds: float) -> None:
        self.place = place
        self._asked = time.monotonic()
        self.deadline = self._asked + seconds
        with suppress(ConnectionError):  # it has just ended, which `finish` will find out
            self.channel.send(json.dumps([pair.answer, pair.gold]).encode())

    def finish(self) -> Ruling:
        """Return what the process said; where it gave no verdict it is ended."""
        seconds, allowed_seconds = time.monotonic() - self._asked, self.deadline - self._asked
        self.place, self.deadline = None, math.inf
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
        return Ruling(None, self._memory() if message else self._end(), seconds)

    def kill(self) -> None:
        """End the process, if it has not ended, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self.channel.close()

    def _memory(self) -> str:
        return f"needed more than {self._limits.memory_bytes / 2**20:.0f} MiB of memory"

    def _end(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return f"needed more than {self._limits.cpu_seconds} s of processor time"
        return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
