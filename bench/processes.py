"""Ends the processes that a bench started when the bench ends: normally, by an error, Ctrl-C or SIGTERM, or killed."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from types import FrameType

import psutil

from bench.cpu import cpu_line
from mathsft.workers.host import die_with


def start_bench() -> None:
    """Print the CPU's line, and make Ctrl-C and SIGTERM end all child processes and then this process."""
    print(cpu_line(), flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored, because Ctrl-C is meant for the foreground job.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def new_executor(num_processes: int) -> ProcessPoolExecutor:
    """Return an executor of spawned processes, which the kernel kills when this process ends, also if it is killed."""
    return ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    )


def end_with(parent_pid: int) -> None:
    """Make the kernel kill this process when its parent ends, and ignore Ctrl-C, which the parent handles."""
    die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    """Kill all children, then leave this process through its `with` blocks, which remove temporary folders."""
    # Executors wait for running calls, so the children must end first.
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            # multiprocessing's resource tracker ends by itself, and a killed one would be restarted with a warning.
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    raise SystemExit(128 + number)
