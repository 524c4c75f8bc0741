"""What a bench started is gone when the bench is, however it ends."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.cpu import cpu_line

ROOT = Path(__file__).parents[2]
BENCH = """
import os, signal
from bench.processes import new_executor, start_bench
start_bench()
with new_executor(2) as executor:
    print(executor.submit(os.getpid).result(), flush=True)
    print(executor.submit(os.spawnlp, os.P_NOWAIT, "sleep", "sleep", "600").result(), flush=True)
    executor.submit(signal.pause).result()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_bench_that_a_signal_ends(number: signal.Signals, tmp_path: Path) -> None:
    command, errors = [sys.executable, "-c", BENCH], tmp_path / "errors.txt"
    with errors.open("w") as stderr:
        bench = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert bench.stdout
    assert bench.stdout.readline().strip() == cpu_line()
    executor_child, grandchild = (psutil.Process(int(bench.stdout.readline())) for _ in range(2))
    started = psutil.Process(bench.pid).children(recursive=True)
    try:
        assert {executor_child, grandchild} <= set(started)
        bench.send_signal(number)
        assert bench.wait() == (-number if number == signal.SIGKILL else 128 + number)
        assert not errors.read_text()
        # Of a death that no process can handle the kernel tells the executor's children, not what they started.
        due = [executor_child] if number == signal.SIGKILL else started
        _, left = psutil.wait_procs(due, timeout=30)
        assert not left
    finally:
        bench.stdout.close()
        for process in started:
            if process.is_running():
                process.kill()
