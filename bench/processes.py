"""Ends with a bench what it started: after its last line, on an error, on Ctrl-C and SIGTERM, and when it is killed."""

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
    """Print the CPU's line; from now on Ctrl-C and SIGTERM end all that this process started, and then itself."""
    print(cpu_line(), flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored is how a shell starts what runs in its background: Ctrl-C is meant for another command.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def new_executor(num_processes: int) -> ProcessPoolExecutor:
    """Return an executor of new processes, no forks, that the kernel kills when this one ends in whatever way."""
    return ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    )


def end_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; Ctrl-C, which a terminal sends to both, is the parent's."""
    die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    """Kill all children, then leave this process through its `with` blocks, which remove temporary folders."""
    # The children first: executors wait for what they are at.
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            # multiprocessing's own helper ends when nobody is left, and is started anew, with a warning, if it is missed.
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    raise SystemExit(128 + number)
