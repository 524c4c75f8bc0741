"""A study in a Ray cluster of several nodes on this machine: a node is lost, another one joins, and nothing changes."""

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mathsft.config.schema import Experiment, LimitSettings
from mathsft.records import Run
from mathsft.runs.context import StudyContext
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.workers.backend import Backend
from mathsft.workers.cluster_placement import place_on_cluster
from mathsft.workers.placement import Placement
from mathsft.workers.ray_backend import LOCAL_ENV, LOOPBACK, RAY_ENV, TOKEN, RayBackend
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


def test_a_study_loses_a_node_in_mid_trial_and_gets_another_one_and_its_result_is_that_of_one_machine(
    cluster: Any, experiment: Experiment, tmp_path: Path
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
    assert result == expected
    assert {run.state for run in result["runs"]} == {"finished"}
