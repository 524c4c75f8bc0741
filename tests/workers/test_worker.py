"""The contract of Worker, with real processes and toy targets, over every backend."""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mathsft.config.study_schema import LimitSettings
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.worker_settings import Needs, WorkerDevice, WorkerSettings, WorkerSpec
from mathsft.workers.backend import Backend, WorkerDied
from mathsft.workers.ray_backend import RayBackend
from mathsft.workers.spawn import SpawnBackend
from mathsft.workers.worker import Attempts, Device, Failed, RemoteError, Worker
from tests.build import make_experiment

pytestmark = pytest.mark.slow  # real processes

EXPERIMENT = make_experiment("m")
HARDWARE = WorkerDevice("cpu", 1, "eager", "float32", 0.5, False)
CORE = min(os.sched_getaffinity(0))


class Team:
    """Makes workers that work in one folder, and closes them."""

    def __init__(self, study_dir: Path, backend: Backend) -> None:
        self.study_dir, self._backend = study_dir, backend
        self._workers: list[Worker] = []
        backend.share(StudyLayout(study_dir))

    def hire(
        self,
        target: str = "Toy",
        name: str = "toy",
        device: Device | None = None,
        env: dict[str, str] | None = None,
        cpus: tuple[int, ...] = (),
        ranks: int = 1,
        ends_when_parked: bool = False,
        limits: LimitSettings = LimitSettings(),  # noqa: B008 - frozen
    ) -> Worker:
        settings = WorkerSettings(EXPERIMENT, HARDWARE, StudyLayout(self.study_dir))
        spec = WorkerSpec(f"toys:{target}", settings, "cpu:0", env or {}, cpus, ranks, ends_when_parked, Needs(0.1))
        worker = Worker(spec, name, device or Device(), limits, self._backend)
        self._workers.append(worker)
        return worker

    def log(self) -> str:
        return (self.study_dir / "logs" / "toy.log").read_text()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)  # where the children find toys
        patch.delenv("PYTHONUNBUFFERED", raising=False)  # it would hide that output is lost when a process is killed
        yield


BACKENDS = ["spawn", pytest.param("ray", marks=pytest.mark.skipif(find_spec("ray") is None, reason="ray is missing"))]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, environment: None) -> Iterator[Backend]:
    with closing(SpawnBackend() if request.param == "spawn" else RayBackend(None)) as backend:
        yield backend


@pytest.fixture
def team(tmp_path: Path, backend: Backend) -> Iterator[Team]:
    team = Team(tmp_path, backend)
    yield team
    team.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Iterator[tuple[Worker, Team]]:
    """One worker for all tests that leave it as it was: a start takes most of a test's time."""
    team = Team(tmp_path_factory.mktemp("toy"), backend)
    before = dict(os.environ), os.sched_getaffinity(0)
    worker = team.hire(env={"CUDA_VISIBLE_DEVICES": "3", "HOME": "/nowhere"}, cpus=(CORE,))
    assert (dict(os.environ), os.sched_getaffinity(0)) == before
    yield worker, team
    team.close()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, timeout=60))


def has_ended(pid: int) -> bool:
    """Wait until the process is gone, for ten seconds at most."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)


def test_one_object_answers_call_after_call(toy: tuple[Worker, Team]) -> None:
    worker, _ = toy

    async def calls() -> list[Any]:
        return [await worker.call("add", 2, 3), await worker.call("count"), await worker.call("count")]

    assert run(calls()) == [5, 1, 2]


def test_code_error_is_raised_once_and_the_next_call_has_a_new_object(team: Team) -> None:
    worker = team.hire()

    async def calls() -> int:
        await worker.call("count")
        with pytest.raises(RemoteError, match=r"toy\.fail: KeyError: 'no such layer'") as caught:
            await worker.call("fail")
        assert "in fail" in caught.value.__notes__[0]
        return await worker.call("count")

    assert run(calls()) == 1
    assert (team.study_dir / "fail.txt").read_text() == "."
    assert "Traceback" in team.log()


@pytest.mark.parametrize(
    ("target", "method", "message"),
    [("Toy", "refuse", "batch size 0: must be at least 1"), ("Unbuildable", "work", "no model at m")],
)
def test_user_error_keeps_its_type_and_message(team: Team, target: str, method: str, message: str) -> None:
    worker = team.hire(target)
    with pytest.raises(UserError) as caught:
        run(worker.call(method))
    assert str(caught.value) == message


def test_target_that_does_not_import_is_a_code_error(team: Team) -> None:
    with pytest.raises(RemoteError, match="AttributeError: module 'toys' has no attribute 'Missing'"):
        run(team.hire("Missing").call("work"))


def test_target_may_ask_for_a_new_process(team: Team) -> None:
    worker = team.hire()
    assert run(worker.call("leave")) == "in a new process"
    assert "the engine is broken" in team.log()


def test_three_deaths_fail_with_the_end_of_the_log_and_fewer_do_not(team: Team) -> None:
    worker = team.hire()

    async def calls() -> int:
        with pytest.raises(Failed) as caught:
            await worker.call("die", 4)
        message = str(caught.value)
        assert message.startswith("toy.die: the worker died 3 times without progress; the last time: process ")
        assert "was killed by SIGKILL" in message
        assert "toy.log" in message
        assert message.endswith("last words 2")
        return await worker.call("die", 4)

    assert run(calls()) == 4


def test_what_cannot_work_in_any_process_fails_with_the_reason_it_gave(team: Team) -> None:
    with pytest.raises(Failed, match="died 3 times without progress") as caught:
        run(team.hire().call("break_down"))
    assert str(caught.value).endswith("SystemExit: the engine broke: OutOfMemoryError")


def test_a_request_that_may_move_is_asked_once_and_a_new_process_takes_the_dead_ones_place(team: Team) -> None:
    """Deaths are counted over the workers that are asked one after the other."""
    one, other = team.hire(name="one"), team.hire(name="other")
    attempts = Attempts("die", LimitSettings())

    async def calls() -> int:
        for worker in (one, other):
            pid, before = await worker.call("pid"), worker.processes
            with pytest.raises(WorkerDied) as died:
                await worker.call_once(attempts, "die", 99)
            attempts.add(worker.name, died.value)
            assert worker.processes and worker.processes != before and not worker.has_answered
            assert has_ended(pid)
        with pytest.raises(WorkerDied) as died:
            await one.call_once(attempts, "die", 99)
        with pytest.raises(Failed, match=r"^one\.die: the worker died 3 times without progress"):
            attempts.add(one.name, died.value)
        return await other.call_once(Attempts("add", LimitSettings()), "add", 20, 22)

    assert run(calls()) == 42


def test_deaths_that_get_further_each_time_are_not_counted(team: Team) -> None:
    """Five deaths, each after another line of progress, where three without any would end the call."""
    worker = team.hire()
    assert run(worker.call("creep", 5, progress=team.study_dir / "creep.txt")) == 5


def test_a_hung_worker_is_ended_and_asked_again(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    worker = team.hire(limits=LimitSettings(start_seconds=50, hang_seconds=1))
    assert run(worker.call("hang_once", progress=team.study_dir / "hang_once.txt")) == "awake again"
    assert "showed no progress for 1 s (limits.hang_seconds)" in caplog.text


def test_a_worker_that_shows_progress_may_take_longer_than_the_limit(team: Team) -> None:
    worker = team.hire(limits=LimitSettings(start_seconds=50, hang_seconds=2))
    assert run(worker.call("work_slowly", 2.5, progress=team.study_dir / "work_slowly.txt")) == "done"


def test_cancelled_call_leaves_no_late_reply(team: Team) -> None:
    worker = team.hire()

    async def calls() -> int:
        pid = await worker.call("pid")
        held = asyncio.create_task(worker.call("hold"))
        while not (team.study_dir / "hold.txt").exists():
            await asyncio.sleep(0.01)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        assert has_ended(pid)
        return await worker.call("add", 20, 22)

    assert run(calls()) == 42


def test_workers_on_one_device_take_turns_and_are_parked(team: Team) -> None:
    device = Device()
    workers = {who: team.hire("Sleeper", who, device) for who in ("one", "two")}

    async def calls() -> None:
        await asyncio.gather(*(workers[who].call("work", who) for _ in range(5) for who in ("one", "two")))

    run(calls())
    awake, lines = None, (team.study_dir / "diary.txt").read_text().splitlines()
    assert len([line for line in lines if line.endswith("ends")]) == 10
    for begins, ends in pairs_of_work(lines):
        assert begins.split()[0] == ends.split()[0]
    for line in lines:
        who, what = line.split()
        assert awake in (None, who), f"{who} was awake with {awake}"
        awake = None if what == "parks" else who


def pairs_of_work(lines: list[str]) -> list[tuple[str, str]]:
    work = [line for line in lines if not line.endswith("parks")]
    return list(zip(work[::2], work[1::2], strict=True))


def test_worker_that_cannot_park_loses_its_process(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    stubborn, other = team.hire("Stubborn", "stubborn", device), team.hire("Toy", "other", device)

    async def calls() -> None:
        await other.call("add", 1, 1)
        assert not caplog.records  # stubborn, which nobody has used yet, was not asked
        pid = await stubborn.call("pid")
        assert await other.call("add", 1, 2) == 3
        assert "cannot sleep" in caplog.text
        assert has_ended(pid)

    run(calls())


def test_worker_that_ends_when_parked_has_a_process_in_its_turns_only(team: Team) -> None:
    device = Device()
    brief, other = team.hire(name="brief", device=device, ends_when_parked=True), team.hire(name="other", device=device)

    async def calls() -> None:
        assert (brief.processes, len(other.processes)) == ((), 1)
        assert not brief.has_answered and not other.has_answered
        assert await other.call("add", 1, 1) == 2
        pids = [await brief.call("pid"), await brief.call("pid")]
        assert pids == [process.pid for process in brief.processes] * 2, "between two calls of its own it stays"
        assert brief.has_answered
        assert await other.call("add", 1, 2) == 3
        assert (brief.processes, brief.has_answered) == ((), False)
        assert has_ended(pids[0])
        assert await brief.call("pid") != pids[0]

    run(calls())


def test_child_has_the_specs_environment_and_cores(toy: tuple[Worker, Team]) -> None:
    worker, _ = toy
    seen = run(worker.call("environment", "CUDA_VISIBLE_DEVICES", "HOME", "RANK", "WORLD_SIZE"))
    assert seen == {"CUDA_VISIBLE_DEVICES": "3", "HOME": "/nowhere", "RANK": "0", "WORLD_SIZE": "1"}
    assert run(worker.call("cores")) == {CORE}


def test_all_output_is_in_the_log_and_none_on_the_terminal(
    toy: tuple[Worker, Team], capfd: pytest.CaptureFixture[str]
) -> None:
    worker, team = toy
    run(worker.call("say", "hello"))
    for by in ("by Python", "by C", "by C, as an error"):
        assert f"hello {by}\n" in team.log()
    assert capfd.readouterr() == ("", "")


def test_interrupt_does_not_disturb_the_child(toy: tuple[Worker, Team]) -> None:
    assert run(toy[0].call("interrupt")) == "undisturbed"


def test_child_may_have_children(toy: tuple[Worker, Team]) -> None:
    assert run(toy[0].call("grandchild")) == 0


def test_close_ends_the_process(team: Team) -> None:
    worker = team.hire()
    pid = run(worker.call("pid"))
    worker.close()
    assert has_ended(pid)


def test_ranks_live_and_die_together(team: Team) -> None:
    """A death counts before the errors that it causes elsewhere; an error of one rank ends those that wait for it."""
    worker = team.hire(ranks=2)

    async def calls() -> None:
        assert re.fullmatch(r"rank 0 of 2 at port \d+", await worker.call("rank_dies", 1))
        pid = await worker.call("pid")
        with pytest.raises(RemoteError, match="rank 1 has no data"):
            await worker.call("one_rank_fails")
        assert has_ended(pid)

    run(calls())


DRIVER = """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from mathsft.config.study_schema import LimitSettings
    from mathsft.layout import StudyLayout
    from mathsft.worker_settings import WorkerDevice, WorkerSettings, WorkerSpec
    from mathsft.workers.worker import Device, Worker
    from tests.build import make_experiment

    async def main():
        hardware = WorkerDevice("cpu", 1, "eager", "float32", 0.5, False)
        settings = WorkerSettings(make_experiment(), hardware, StudyLayout(Path(sys.argv[1])))
        spec = WorkerSpec("toys:Toy", settings, "cpu:0", {}, ())
        busy, idle = (Worker(spec, name, Device(), LimitSettings()) for name in ("busy", "idle"))
        await busy.call("take_semaphore")
        print(await busy.call("pid"), await idle.call("pid"), flush=True)
        await busy.call("hold")

    if __name__ == "__main__":
        asyncio.run(main())
"""


def test_nothing_outlives_a_killed_driver(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    command = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2
        driver.send_signal(signal.SIGKILL)
        assert all(has_ended(pid) for pid in pids)
        # Its output ends when all who hold it have ended, multiprocessing's helper included, and nobody complained.
        assert driver.stdout.read() == ""
