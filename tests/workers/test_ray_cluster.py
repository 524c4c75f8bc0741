"""A study in a Ray cluster of several nodes on this machine: a node is lost, another one joins, and nothing changes."""

import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from mathsft.commands.stores import share_study
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import LimitSettings
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.records import Run
from mathsft.runs.context import StudyContext
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.database import STORAGE_VARIABLE
from mathsft.workers.backend import Backend
from mathsft.workers.cluster_placement import place_on_cluster
from mathsft.workers.placement import Placement
from mathsft.workers.ray_backend import LOCAL_ENV, LOOPBACK, RAY_ENV, TOKEN, RayBackend
from mathsft.workers.ray_host import SharedFile
from mathsft.workers.spawn import SpawnBackend
from tests.build import make_machine
from tests.study.toys import Driver, Kills, study_config
from tests.workers.chain_toys import HELD, HOLD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is missing"),
]

CONFIG = study_config(
    num_trials=2,
    trial={"num_examples": 128, "eval_points": [0.5, 1.0]},
    evaluators=1,
    search={
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    },
)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without workers and two nodes for one worker each, on loopback."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (LOCAL_ENV | RAY_ENV | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}).items():
            patch.setenv(name, value)
        os.environ.setdefault(TOKEN, secrets.token_hex(32))  # the Ray of this process reads it once
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "node_ip_address": LOOPBACK, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            join(cluster)
        yield cluster
        cluster.shutdown()


def join(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, node_ip_address=LOOPBACK)


class ClusterDriver(Driver):
    """A driver with toy workers in real processes of a backend."""

    def __init__(self, folder: Path, experiment: Experiment, backend: Backend) -> None:
        super().__init__(folder, experiment, Kills())
        self.backend, self.experiment = backend, experiment

    def run(self) -> dict[str, Any]:
        """Run the study to its promotion and return what must not depend on the backend."""
        assert self.backend.share(self.layout) == 1
        nodes = self.backend.machines if self.backend.is_cluster else [make_machine(name="here")]
        placement = place_on_cluster(nodes, self.experiment, self.layout, "study")
        with StudyWorkers.started(_with_toys(placement), LimitSettings(), self.backend) as workers:
            self.workers = workers
            self.study(CONFIG)
        return self.summary()

    def context(self) -> StudyContext:
        return StudyContext(self.store, self.workers, self.layout, self.experiment)


def _with_toys(placement: Placement) -> Placement:
    trainers = tuple(replace(spec, target="tests.workers.chain_toys:ChainTrainer") for spec in placement.trainers)
    evaluators = tuple(replace(spec, target="tests.workers.chain_toys:ChainEvaluator") for spec in placement.evaluators)
    return replace(placement, trainers=trainers, evaluators=evaluators)


class Joins:
    """An observer that adds a node when the first trial has ended."""

    def __init__(self, join: Callable[[], None]) -> None:
        self._join = join
        self.num_joined = 0

    def notify(self, record: object) -> None:
        if isinstance(record, Run) and record.name == "trial-0" and record.state != "running" and not self.num_joined:
            self.num_joined += 1
            self._join()


LOCAL = """
    import asyncio, sys
    from pathlib import Path
    import psutil
    from mathsft.config.study_schema import LimitSettings
    from mathsft.layout import StudyLayout
    from mathsft.worker_settings import Needs, WorkerDevice, WorkerSettings, WorkerSpec
    from mathsft.workers.ray_backend import RayBackend
    from mathsft.workers.worker import Device, Worker
    from tests.build import make_experiment

    async def main():
        backend, layout = RayBackend(None), StudyLayout(Path(sys.argv[1]))
        backend.share(layout)
        hardware = WorkerDevice("cpu", 1, "eager", "float32", 0.5, False)
        settings = WorkerSettings(make_experiment(), hardware, layout)
        spec = WorkerSpec("toys:Toy", settings, "cpu:0", {}, (), needs=Needs(1))
        worker = Worker(spec, "toy", Device(), LimitSettings(), backend)
        of_child = await worker.call("pid")
        assert await worker.call("environment", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS") == {
            "RAY_AUTH_TOKEN": None, "OMP_NUM_THREADS": None
        }
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        connections = [connection for process in family for connection in process.net_connections("inet")]
        assert of_child in [process.pid for process in family]
        print(*{connection.laddr.ip for connection in connections if connection.status == "LISTEN"})
        # Ray's agents notice only after a minute that their raylet is gone.
        print(*[process.pid for process in family[1:] if "Agent" not in process.name()], flush=True)
        await worker.call("hold")

    if __name__ == "__main__":
        asyncio.run(main())
"""


def test_a_local_ray_listens_on_loopback_only_and_ends_with_a_killed_driver(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(LOCAL))
    paths = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parent)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
    command = [sys.executable, str(script), str(tmp_path / "study")]
    with subprocess.Popen(
        command, env=environment | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        assert driver.stdout is not None
        addresses, pids = driver.stdout.readline().split(), driver.stdout.readline().split()
        assert addresses and {address.removeprefix("::ffff:") for address in addresses} == {LOOPBACK}, addresses
        family = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
        driver.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive


@pytest.mark.parametrize(
    ("address", "variables", "message"),
    [
        ("127.0.0.1:1", {TOKEN: "t"}, "--address 127.0.0.1:1: no Ray cluster answers there"),
        ("nonsense", {TOKEN: "t"}, "--address nonsense: no Ray cluster answers there"),
        ("auto", {"RAY_AUTH_TOKEN_PATH": "missing"}, "--address auto: this cluster's token is missing; put it into"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, address: str, variables: dict[str, str], message: str
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        RayBackend(address)


def test_a_node_that_does_not_see_the_drivers_folder_is_named(tmp_path: Path) -> None:
    shared = SharedFile(tmp_path / "shared-folder", "1a")
    (tmp_path / "shared-folder").write_text("1a")
    assert shared.refusal(0) == ""
    (tmp_path / "shared-folder").write_text("of another folder at the same path")
    assert "does not see the study's folder" in shared.refusal(0)
    (tmp_path / "shared-folder").unlink()
    assert str(tmp_path) in shared.refusal(0)


class Computers(SpawnBackend):
    """A backend whose machines are on several computers."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def share(self, layout: StudyLayout) -> int:
        return self._number


def test_no_sqlite_file_in_a_folder_that_computers_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    layout = StudyLayout(tmp_path)
    share_study(Computers(1), layout, None)
    with pytest.raises(UserError, match=r"2 computers share this folder, where an SQLite file is not safe; .* --storage"):
        share_study(Computers(2), layout, None)
    share_study(Computers(2), layout, "postgresql+psycopg://me@db/studies")


def test_a_study_loses_a_node_in_mid_trial_and_gets_another_one_and_its_result_is_that_of_one_machine(
    cluster: Any, experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = ClusterDriver(tmp_path / "spawn", experiment, SpawnBackend()).run()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / HOLD).touch()
    joins = Joins(lambda: join(cluster))
    with closing(RayBackend(cluster.address)) as backend:
        driver = ClusterDriver(tmp_path / "ray", experiment, backend)
        driver.store.observers.append(joins)
        lost: list[tuple[str, str]] = []

        def lose_a_node() -> None:
            while not (driver.layout.root / HELD).exists():
                time.sleep(0.01)
            nodes = {actor.name: actor.node for actor in backend.actors}
            lost.append((nodes["trainer-0"], nodes["evaluator-0"]))
            [node] = [node for node in cluster.worker_nodes if node.node_id == nodes["trainer-0"]]
            cluster.remove_node(node, allow_graceful=False)

        losing = threading.Thread(target=lose_a_node)
        losing.start()
        result = driver.run()
        losing.join()
    assert len(set(*lost)) == 2, "trainer and evaluator were on different nodes"
    assert joins.num_joined == 1
    assert "raylet" not in "".join(capfd.readouterr())
    assert "evaluator-0: its process is ended, because another worker waits for a place" in caplog.text
    assert result == expected
    assert {run.state for run in result["runs"]} == {"finished"}
