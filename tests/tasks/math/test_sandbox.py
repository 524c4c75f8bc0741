"""What math-verify says, and that nothing it is given takes more than its limits or does harm to other pairs."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from mathsft.tasks.math.sandbox import Limits, Sandbox
from mathsft.tasks.task import Pair

FAMILIAR = Pair("x+1", "1+x")
ENDLESS = Pair(r"\{99999999!, 1\}", r"\{3, 1\}")
PATIENT_SECONDS = 60
"""How long to wait on a busy machine for what should happen at once."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One for all tests that leave it as it was: each process costs seconds to start."""
    sandbox = Sandbox(limits=Limits(cpu_seconds=3600, wall_seconds=3600))
    assert sandbox.judge([]) == []
    assert not sandbox._processes, "no process starts before it is needed"
    yield sandbox
    sandbox.close()


def process_of(sandbox: Sandbox) -> psutil.Process:
    [process] = sandbox._processes.values()
    return psutil.Process(process._process.pid)


@pytest.mark.slow
def test_algebra(sandbox: Sandbox) -> None:
    equal = [
        (r"\sqrt{75}", r"5\sqrt{3}"),
        ("1+3x", "3x+1"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\frac{x^2-1}{x-1}", "x+1"),
        ("0.5x", r"\frac{x}{2}"),
        ("x^{0.5}", r"\sqrt{x}"),
        ("1,234.50x", "1234.5x"),
        ("1", r"\sin^2 x+\cos^2 x"),
        (r"e^{i\pi}", "-1"),
        (r"\cos\theta+i\sin\theta", r"e^{i\theta}"),
        (r"1\le x\le 2", "[1,2]"),
        ("[1,2]", r"1\le x\le 2"),
    ]
    different = [
        ("3x-1", "3x+1"),
        ("6.283185307", r"2\pi"),  # math-verify alone rounds to six places
        ("0.3333333x", r"\frac{x}{3}"),
        ("x", "y"),
        ("ix", "x"),
        ("y=2x+1", "y=2x+3"),
        ("(", "1"),
    ]
    rulings = sandbox.judge([Pair(*texts) for texts in equal + different])
    assert [ruling.is_equal for ruling in rulings] == [True] * len(equal) + [False] * len(different)
    assert all(ruling.reason == "" and ruling.seconds > 0 for ruling in rulings)


@pytest.mark.slow
def test_a_bomb_costs_its_own_process_only() -> None:
    bombs = [ENDLESS, Pair("(1,9^{9^9}]", "(1,2]"), Pair(r"\prod_{n=1}^{100000000} n", "7")]
    pairs = [pair for bomb in bombs for pair in (bomb, FAMILIAR)]
    memory_before = psutil.Process().memory_info().rss
    with closing(Sandbox(num_processes=2, limits=Limits(cpu_seconds=1, wall_seconds=PATIENT_SECONDS))) as sandbox:
        rulings = sandbox.judge(pairs)
    assert [ruling.is_equal for ruling in rulings] == [None, True] * len(bombs)
    assert {ruling.reason for ruling in rulings[::2]} == {"needed more than 1 s of processor time"}
    assert psutil.Process().memory_info().rss - memory_before < 2**24


@pytest.mark.slow
def test_memory_is_limited() -> None:
    # Not much above what the imports take.
    limits = Limits(cpu_seconds=PATIENT_SECONDS, wall_seconds=PATIENT_SECONDS, memory_bytes=120 * 2**20)
    with closing(Sandbox(limits=limits)) as sandbox:
        greedy, familiar = sandbox.judge([Pair("(1,2^{100000000}]", "(1,2]"), FAMILIAR])
    assert (greedy.is_equal, greedy.reason) == (None, "needed more than 120 MiB of memory")
    assert familiar.is_equal


@pytest.mark.slow
def test_a_process_that_hangs_is_killed() -> None:
    with closing(Sandbox(limits=Limits(wall_seconds=0.5))) as sandbox:
        sandbox.judge([FAMILIAR])
        child = process_of(sandbox)
        child.suspend()
        [ruling] = sandbox.judge([FAMILIAR])
    assert (ruling.is_equal, ruling.reason) == (None, "took longer than 0.5 s")
    assert not child.is_running()


@pytest.mark.slow
def test_a_process_that_is_killed_loses_the_pair_that_it_is_at(sandbox: Sandbox) -> None:
    sandbox.judge([FAMILIAR])
    killer = threading.Thread(target=kill_when_busy, args=(process_of(sandbox),))
    killer.start()
    lost, familiar = sandbox.judge([ENDLESS, FAMILIAR])
    killer.join()
    assert (lost.is_equal, lost.reason) == (None, "its process was killed by SIGKILL")
    assert familiar.is_equal


def kill_when_busy(process: psutil.Process) -> None:
    idle_seconds = sum(process.cpu_times()[:2])
    while sum(process.cpu_times()[:2]) < idle_seconds + 0.2:
        time.sleep(0.01)
    process.kill()


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_has_no_pair_loses_none(sandbox: Sandbox) -> None:
    sandbox.judge([FAMILIAR])
    child = process_of(sandbox)
    child.kill()
    child.wait()
    assert sandbox.judge([FAMILIAR])[0].is_equal


@pytest.mark.slow
def test_an_interrupted_call_leaves_no_answer_to_the_next(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.judge([FAMILIAR])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupt)  # Ctrl-C while the call waits
        with pytest.raises(KeyboardInterrupt):
            sandbox.judge([FAMILIAR])
    assert not sandbox.judge([Pair("x", "y")])[0].is_equal


@pytest.mark.slow
def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal\n"
        "from mathsft.tasks.math.sandbox import *\n"
        "sandbox = Sandbox()\n"
        f"sandbox.judge([{FAMILIAR!r}])\n"
        "print(*(process._process.pid for process in sandbox._processes.values()), flush=True)\n"
        "signal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        child.suspend()  # it cannot end by itself, as it could not in the middle of a pair
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=PATIENT_SECONDS)
    for process in alive:
        process.kill()
    assert not alive


def test_an_installation_without_math_verify_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import no_such_module")
    monkeypatch.setattr("mathsft.tasks.math.sandbox._SCRIPT", script)
    with pytest.raises(RuntimeError, match="its process ended with 1"):
        Sandbox().judge([FAMILIAR])
