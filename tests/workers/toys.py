"""Small targets for the workers' tests; imported by worker processes, each method shows one thing a target may do."""

import multiprocessing
import os
import signal
import sys
import threading
import time

from mathsft.errors import UserError
from mathsft.worker_settings import WorkerSettings


class Toy:
    def __init__(self, settings: WorkerSettings) -> None:
        self._dir = settings.layout.root
        self._num_calls = 0

    def pid(self) -> int:
        return os.getpid()

    def add(self, left: int, right: int) -> int:
        return left + right

    def count(self) -> int:
        self._num_calls += 1
        return self._num_calls

    def refuse(self) -> None:
        raise UserError("batch size 0: must be at least 1")

    def fail(self) -> None:
        self._note("fail")
        raise KeyError("no such layer")

    def environment(self, *names: str) -> dict[str, str | None]:
        return {name: os.environ.get(name) for name in names}

    def cores(self) -> set[int]:
        return os.sched_getaffinity(0)

    def interrupt(self) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "undisturbed"

    def say(self, text: str) -> None:
        sys.stdout.write(f"{text} by Python\n")
        os.write(1, f"{text} by C\n".encode())
        os.write(2, f"{text} by C, as an error\n".encode())

    def die(self, num_deaths: int) -> int:
        """Die as often as told, counted on disk, then return how often."""
        num_died = self._count("die")
        if num_died < num_deaths:
            self._note("die")
            print(f"last words {num_died}")
            os.kill(os.getpid(), signal.SIGKILL)
        return num_died

    def creep(self, num_lines: int) -> int:
        """Get one line further in each life."""
        if self._count("creep") < num_lines:
            self._note("creep")
            os.kill(os.getpid(), signal.SIGKILL)
        return num_lines

    def hang_once(self) -> str:
        if self._count("hang_once"):
            return "awake again"
        self._note("hang_once")
        signal.pause()
        return "never"

    def work_slowly(self, seconds: float) -> str:
        """Note progress ten times a second."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self._note("work_slowly")
            time.sleep(0.1)
        return "done"

    def leave(self) -> str:
        if self._count("leave"):
            return "in a new process"
        self._note("leave")
        threading.Thread(target=time.sleep, args=(600,)).start()  # which an orderly exit would wait for
        raise SystemExit("the engine is broken")

    def break_down(self) -> None:
        raise SystemExit("the engine broke: OutOfMemoryError")

    def hold(self) -> None:
        """Tell that the request arrived, then never reply."""
        self._note("hold")
        time.sleep(600)

    def take_semaphore(self) -> None:
        self._semaphore = multiprocessing.get_context("spawn").Semaphore()

    def grandchild(self) -> int:
        child = multiprocessing.get_context("spawn").Process(target=_nothing)
        child.start()
        child.join()
        return child.exitcode or 0

    def rank_dies(self, victim: int) -> str:
        """One rank dies once; the others raise because of that, as ranks in a collective do."""
        rank = int(os.environ["RANK"])
        if self._count("rank") == 0:
            if rank == victim:
                self._note("rank")
                os.kill(os.getpid(), signal.SIGKILL)
            while self._count("rank") == 0:
                os.sched_yield()
            raise RuntimeError("connection closed by peer")
        return f"rank {os.environ['LOCAL_RANK']} of {os.environ['WORLD_SIZE']} at port {os.environ['MASTER_PORT']}"

    def one_rank_fails(self) -> None:
        if os.environ["RANK"] == "1":
            raise ValueError("rank 1 has no data")
        time.sleep(600)

    def _note(self, name: str) -> None:
        with (self._dir / f"{name}.txt").open("a") as file:
            file.write(".")

    def _count(self, name: str) -> int:
        path = self._dir / f"{name}.txt"
        return len(path.read_text()) if path.exists() else 0


class Sleeper:
    """A target that occupies a device: writes when it begins and ends to be awake."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._diary = settings.layout.root / "diary.txt"

    def work(self, who: str) -> None:
        self._write(f"{who} begins")
        self._who = who
        os.sched_yield()
        self._write(f"{who} ends")

    def park(self) -> None:
        self._write(f"{self._who} parks")

    def _write(self, line: str) -> None:
        with self._diary.open("a") as file:
            file.write(line + "\n")


class Stubborn(Toy):
    def park(self) -> None:
        raise RuntimeError("cannot sleep")


class Unbuildable:
    def __init__(self, settings: WorkerSettings) -> None:
        raise UserError(f"no model at {settings.experiment.model.path}")


def _nothing() -> None:
    pass
