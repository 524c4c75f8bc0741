"""Kills random processes of small studies and final runs, which must end with the same results as an undisturbed one.

`python -m bench.faults --kills K --seed S` runs the quickstart's scripts in a temporary folder and kills the driver or a
worker K times. It repeats each command until the command succeeds, and prints a table and, as its last line, JSON. The seed
decides who is killed and when; all pauses between two writes of the undisturbed run are equally likely.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from bench.ends import Differences, compare, read_end
from bench.processes import start_bench
from mathsft.layout import StudyLayout
from mathsft.workers.host import die_with

ROOT = Path(__file__).parents[1]
STUDY = "quickstart"
SMALL = {
    "trial.num_examples": "256",
    "final.num_examples": "1024",
    "final.eval_points": "[0.5,1]",
    "data.pools.search": "60",
    "data.pools.confirm": "60",
    "data.pools.validation": "60",
    "data.pools.test": "60",
}
KILLS_PER_STUDY = 8
POLL_SECONDS = 0.05
OUTRUN_SECONDS = 1
"""Longest delay of a strike on a command that has no work left."""
MAX_LIFE_SECONDS = 3600
"""A command that takes longer hangs."""
GONE_SECONDS = 10
"""How long the processes that a driver started may outlive it."""
INTERRUPT_PAUSE_SECONDS = 0.2
BOOT_CPU_SECONDS = 0.1
"""More than Python needs to start a command. Python itself answers an earlier Ctrl-C, with a traceback."""
MAX_PAUSE_SECONDS = 5
"""Longest delay of a strike after a write; without this limit most strikes would fall into the start of the engine."""

DRIVER, TRAINER, EVALUATOR, GRADER, INTERRUPT = "driver", "trainer", "evaluator", "grader", "Ctrl-C twice"
WEIGHTS = {DRIVER: 2, TRAINER: 4, EVALUATOR: 2, GRADER: 1, INTERRUPT: 1}
"""Relative frequencies of the victims. Trainers die most often: a new one starts in seconds, an engine in twenty seconds."""
WORKS_ON = {TRAINER: "runs/*/metrics.jsonl", EVALUATOR: "runs/*/responses/*.jsonl"}
"""The files that grow with a worker's progress."""
_SERVES = re.compile(r": process (\d+) serves")

Timeline: TypeAlias = list[tuple[float, int]]
"""Seconds since a command's start, and the bytes of progress from then on; the last entry is the command's end."""


@dataclass(frozen=True)
class Strike:
    """A planned kill of the victim, `seconds` after the progress reached num_bytes."""

    victim: str
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Kill:
    """A kill that took place; the victim is the driver if the planned one was not alive."""

    study: int
    command: str
    seconds: float
    """Since the command's start."""
    num_bytes: int
    victim: str


@dataclass(frozen=True)
class Result:
    """The kills and their effects."""

    kills: list[Kill]
    differences: Differences
    num_half_files: int
    num_leftover_processes: int
    num_tracebacks: int
    """Tracebacks that the user would see."""

    def line(self) -> str:
        """Return the result as one JSON object."""
        victims = Counter(kill.victim for kill in self.kills)
        return json.dumps(
            {
                "kills": len(self.kills),
                **asdict(self.differences),
                "half_files": self.num_half_files,
                "leftover_processes": self.num_leftover_processes,
                "tracebacks": self.num_tracebacks,
                "victims": {name: victims[name] for name in WEIGHTS},
            }
        )


def commands(num_trials: int, num_evaluators: int = 1) -> tuple[list[str], list[str]]:
    """Return the commands of a small study and of its final run."""
    settings = SMALL | {"evaluators": str(num_evaluators)}
    small = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return ["run_study.py", "--trials", str(num_trials), *small], ["run_final.py", "--from-best", *small]


class Workplace:
    """A folder with the quickstart's study in it, and the commands that run there."""

    def __init__(self, root: Path, number: int, num_trials: int, num_evaluators: int = 1) -> None:
        self._root, self._number = root, number
        for name in ("studies", "experiments", "tmp"):
            (root / name).mkdir(parents=True)
        for name in ("studies", "experiments"):
            shutil.copy(ROOT / name / f"{STUDY}.yaml", root / name)
        self.commands = commands(num_trials, num_evaluators)
        self.layout = StudyLayout(root / "studies" / STUDY)
        self.kills: list[Kill] = []
        self.num_leftovers = self.num_tracebacks = 0
        self._logs: tuple[Path, ...] = ()
        """Files with the output and errors of the latest command: COMMAND.out and COMMAND.err."""
        self._progress_at_kill: dict[str, int] = {}

    def run_undisturbed(self, command: Sequence[str]) -> Timeline:
        """Run a command to its end and return its timeline."""
        timeline: Timeline = [(0.0, self._num_bytes())]
        with self._started(command) as process:
            for seconds in self._life(process):
                if (num_bytes := self._num_bytes()) != timeline[-1][1]:
                    timeline.append((seconds, num_bytes))
        self._expect(process, 0)
        return [*timeline, (seconds, self._num_bytes())]

    def run_disturbed(self, command: Sequence[str], strikes: Sequence[Strike]) -> None:
        """Repeat a command until all strikes are done and it has succeeded."""
        due, is_finished = deque(strikes), False
        while due or not is_finished:
            reached: float | None = None
            bytes_when_reached = 0
            killed_by = ""
            with self._started(command) as process:
                for seconds in self._life(process):
                    if not due or killed_by:
                        continue
                    num_bytes = self._num_bytes()
                    if reached is None and (is_finished or num_bytes >= due[0].num_bytes):
                        reached, bytes_when_reached = seconds, num_bytes
                    # A command that ended before its strike, because it was faster this time, is struck when it is repeated.
                    wait_seconds = min(due[0].seconds, OUTRUN_SECONDS) if is_finished else due[0].seconds
                    # A strike falls at the latest at the next write, which may come earlier than it did undisturbed.
                    if reached is not None and (seconds - reached >= wait_seconds or num_bytes > bytes_when_reached):
                        victim = self._strike(process, due.popleft().victim)
                        self.kills.append(Kill(self._number, command[0], seconds, num_bytes, victim))
                        reached = None
                        killed_by = victim if victim in (DRIVER, INTERRUPT) else ""
            if killed_by == DRIVER:
                self._expect(process, -signal.SIGKILL)
            elif not killed_by:
                self._expect(process, 0)
            is_finished = is_finished or process.returncode == 0

    @contextmanager
    def _started(self, command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a command in a new session; at the end kill it, and count and kill the processes that it left."""
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": self._temporary}
        self._logs = tuple(self._root / f"{Path(command[0]).stem}.{stream}" for stream in ("out", "err"))
        with self._logs[0].open("wb") as output, self._logs[1].open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / command[0]), *command[1:]],
                cwd=self._root,
                env=environment,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                preexec_fn=partial(die_with, os.getpid()),
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            left = self._left_processes()
            self.num_leftovers += len(left)
            for other in left:
                other.kill()
        if num_tracebacks := self._printed().count("Traceback (most recent call last)"):
            self.num_tracebacks += num_tracebacks
            print(self._printed(), file=sys.stderr, flush=True)

    def _life(self, process: "subprocess.Popen[bytes]") -> Iterator[float]:
        """Yield the seconds since the call every POLL_SECONDS until the process has ended."""
        began = time.monotonic()
        while process.poll() is None:
            seconds = time.monotonic() - began
            if seconds > MAX_LIFE_SECONDS:
                raise RuntimeError(f"{self._root} hangs:\n{self._printed()}")
            yield seconds
            time.sleep(POLL_SECONDS)

    def _expect(self, process: "subprocess.Popen[bytes]", exit_code: int) -> None:
        if process.returncode not in (exit_code, 0):
            raise RuntimeError(f"{process.args!r} in {self._root} ended with {process.returncode}:\n{self._printed()}")

    def _strike(self, driver: "subprocess.Popen[bytes]", victim: str) -> str:
        """Kill the victim, or the driver if the victim is not alive; return which of them was killed."""
        if victim == INTERRUPT:
            while driver.poll() is None and sum(psutil.Process(driver.pid).cpu_times()[:2]) < BOOT_CPU_SECONDS:
                time.sleep(POLL_SECONDS)
            for _ in range(2):  # to the whole process group, as a terminal does
                os.killpg(driver.pid, signal.SIGINT)
                time.sleep(INTERRUPT_PAUSE_SECONDS)
            return INTERRUPT
        pid = self._pid_of(victim, driver.pid)
        os.kill(pid or driver.pid, signal.SIGKILL)
        return victim if pid else DRIVER

    def _pid_of(self, victim: str, driver_pid: int) -> int | None:
        """Return the process to kill; None for a worker without progress since its last kill: three of them fail a run."""
        if victim == GRADER:
            evaluator = self._worker_pid(EVALUATOR, driver_pid)
            children = psutil.Process(evaluator).children() if evaluator else []
            graders = [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]
            return graders[0] if graders else None
        if victim not in WORKS_ON:
            return None
        progress = sum(path.stat().st_size for path in self.layout.root.glob(WORKS_ON[victim]))
        pid = self._worker_pid(victim, driver_pid)
        if pid is None or progress <= self._progress_at_kill.get(victim, -1):
            return None
        self._progress_at_kill[victim] = progress
        return pid

    def _worker_pid(self, name: str, driver_pid: int) -> int | None:
        """Return the process that a worker's log names last, if it is alive and a child of this driver.

        Of several workers of this name it is the one that wrote to its log last.
        """
        logs = sorted(self.layout.root.glob(f"logs/{name}*.log"), key=lambda path: path.stat().st_mtime_ns)
        pids = [found[-1] for path in logs if (found := _SERVES.findall(path.read_text(errors="replace")))]
        try:
            return int(pids[-1]) if pids and psutil.Process(int(pids[-1])).ppid() == driver_pid else None
        except psutil.NoSuchProcess:
            return None

    def _left_processes(self) -> list[psutil.Process]:
        """Return the processes with this workplace's TMPDIR in their environment that are alive after GONE_SECONDS."""
        started = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == self._temporary:
                    started.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        _, alive = psutil.wait_procs(started, timeout=GONE_SECONDS)
        return alive

    @property
    def _temporary(self) -> str:
        return str(self._root / "tmp")

    def _printed(self) -> str:
        """Return the output and errors of the latest command."""
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in self._logs)

    def _num_bytes(self) -> int:
        paths = [path for pattern in WORKS_ON.values() for path in self.layout.root.glob(pattern)]
        return sum(path.stat().st_size for path in paths)


def main() -> None:
    """Run the bench; print its table and its JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Small studies under random SIGKILLs.")
    parser.add_argument("--kills", type=int, default=8, help="number of kills (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="decides which processes are killed and when (default 0)")
    parser.add_argument("--trials", type=int, default=3, help="trials of each study (default 3)")
    parser.add_argument("--evaluators", type=int, default=1, help="evaluators of the studies with kills (default 1)")
    arguments = parser.parse_args()
    if min(arguments.kills, arguments.trials, arguments.evaluators) < 1:
        parser.error("--kills, --trials and --evaluators must be at least 1")
    start_bench()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        numbers = arguments.kills, arguments.seed, arguments.trials
        result = measure(*numbers, Path(scratch), console, arguments.evaluators)
    console.print(_table(result))
    console.print(result.line(), soft_wrap=True)


def measure(num_kills: int, seed: int, num_trials: int, scratch: Path, console: Console, num_evaluators: int = 1) -> Result:
    """Run one study undisturbed and others with num_kills kills in total, in the scratch folder, and compare their ends.

    The undisturbed study has one evaluator, the others have num_evaluators.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores SIGINT, and the commands would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    undisturbed = Workplace(scratch / "undisturbed", 0, num_trials)
    timelines = [undisturbed.run_undisturbed(command) for command in undisturbed.commands]
    expected = read_end(undisturbed.layout, STUDY)
    console.print(f"undisturbed: {' + '.join(f'{timeline[-1][0]:.0f}' for timeline in timelines)} s")
    places, differences, num_half_files = [undisturbed], list[Differences](), expected.num_half_files
    rng = random.Random(seed)
    while num_left := num_kills - sum(len(place.kills) for place in places):
        place = Workplace(scratch / str(len(places)), len(places), num_trials, num_evaluators)
        places.append(place)
        for command, strikes in zip(place.commands, _draw(rng, min(num_left, KILLS_PER_STUDY), timelines), strict=True):
            place.run_disturbed(command, strikes)
        end = read_end(place.layout, STUDY)
        differences.append(compare(expected, end))
        num_half_files += end.num_half_files
        console.print(f"study {len(differences)}: {len(place.kills)} kills; {differences[-1]}")
    return Result(
        kills=[kill for place in places for kill in place.kills],
        differences=Differences(*map(sum, zip(*map(astuple, differences), strict=True))),
        num_half_files=num_half_files,
        num_leftover_processes=sum(place.num_leftovers for place in places),
        num_tracebacks=sum(place.num_tracebacks for place in places),
    )


def _draw(rng: random.Random, num_kills: int, timelines: Sequence[Timeline]) -> list[list[Strike]]:
    """Return random strikes for each command; all pauses between two writes are equally likely."""
    pauses = [
        (command, num_bytes, until - since)
        for command, timeline in enumerate(timelines)
        for (since, num_bytes), (until, _) in pairwise(timeline)
    ]
    strikes: list[list[Strike]] = [[] for _ in timelines]
    for index in sorted(rng.choices(range(len(pauses)), k=num_kills)):
        command, num_bytes, pause_seconds = pauses[index]
        victim = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        strikes[command].append(Strike(victim, num_bytes, rng.uniform(0, min(pause_seconds, MAX_PAUSE_SECONDS))))
    return strikes


def _table(result: Result) -> Table:
    table = Table(title="Kills", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("study", "command", "seconds after its start", "kB of metrics and responses", "victim"):
        table.add_column(header, justify="left" if header in ("command", "victim") else "right")
    for kill in result.kills:
        table.add_row(str(kill.study), kill.command, f"{kill.seconds:.1f}", f"{kill.num_bytes / 1e3:.1f}", kill.victim)
    return table


if __name__ == "__main__":
    main()
