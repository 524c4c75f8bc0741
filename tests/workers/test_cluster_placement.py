"""Workers of clusters that exist on paper."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mathsft.config.schema import Experiment
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.worker_settings import Needs
from mathsft.workers.cluster_placement import common_machine, place_on_cluster
from mathsft.workers.cluster_room import without_room
from mathsft.workers.machine import Machine
from mathsft.workers.placement import Placement, place
from mathsft.workers.split import WorkEstimate
from tests.build import make_machine

BALANCED = WorkEstimate(100.0, 100.0, "a trial", "a guess")


def node(name: str, num_cpus: int, num_gpus: int = 0, **fields: Any) -> Machine:
    return make_machine(range(num_cpus), [str(index) for index in range(num_gpus)], name=name, **fields)


def placed(nodes: Sequence[Machine], experiment: Experiment, purpose: Any = "study", **options: Any) -> Placement:
    return place_on_cluster(nodes, experiment, StudyLayout(Path("s")), purpose, **options)


def needs(placement: Placement) -> tuple[list[str], list[str]]:
    return [str(spec.needs) for spec in placement.trainers], [str(spec.needs) for spec in placement.evaluators]


def test_one_node_is_used_like_a_machine_of_its_own(experiment: Experiment) -> None:
    for num_cpus in (1, 2, 5, 16):
        here = place(make_machine(range(num_cpus)), experiment, StudyLayout(Path("s")), "study", work=BALANCED)
        there = placed([node("a", num_cpus)], experiment, work=BALANCED)
        for ours, theirs in zip((*here.trainers, *here.evaluators), (*there.trainers, *there.evaluators), strict=True):
            assert replace(theirs, cpus=ours.cpus, needs=None) == ours
            assert theirs.cpus == ()
    assert needs(placed([node("a", 1)], experiment)) == (["0.5 CPUs"], ["0.5 CPUs"])
    assert needs(placed([node("a", 5)], experiment)) == (["3 CPUs"], ["2 CPUs"])


def test_nodes_without_gpus_get_workers_with_equally_many_threads(experiment: Experiment) -> None:
    placement = placed([node("a", 8), node("b", 5), node("c", 4)], experiment, work=BALANCED)
    assert needs(placement) == (["4 CPUs"] * 2, ["4 CPUs"] * 2)
    threads = {spec.settings.worker_device.num_threads for spec in (*placement.trainers, *placement.evaluators)}
    assert threads == {4}
    assert placement.description.startswith("3 nodes without CUDA devices: 2 trainers, 2 evaluators, 4 cores each")
    final = placed([node("a", 8), node("b", 5), node("c", 4)], experiment, "final", evaluators=2)
    assert needs(final) == (["4 CPUs"], ["4 CPUs"] * 2)


def test_every_gpu_gets_a_worker_and_nodes_without_gpus_none(experiment: Experiment) -> None:
    nodes = [node("cpu", 64), node("a", 16, 4), node("b", 6, 2)]
    study = placed(nodes, experiment, work=BALANCED)
    assert needs(study) == (["3 CPUs and 1 GPUs"] * 3, ["3 CPUs and 1 GPUs"] * 3)
    assert needs(placed(nodes, experiment, "final")) == (["12 CPUs and 4 GPUs"], ["3 CPUs and 1 GPUs"])
    alone = needs(placed([node("a", 1, 1)], experiment))
    assert alone == (["0.5 CPUs and 0.5 GPUs"], ["0.5 CPUs and 0.5 GPUs"]), "they share the device, in turns"


def test_workers_rely_on_what_all_nodes_have() -> None:
    first = node("a", 2, 1, capability=(9, 0), device_gb=80, free_memory_bytes=10, refused_devices=("no",))
    second = node("b", 3, 2, capability=(7, 5), device_gb=24, free_gb=20, free_memory_bytes=5, cpu_vendor="AuthenticAMD")
    machine = common_machine([first, second, node("c", 9, free_memory_bytes=1)])
    assert (len(machine.cpus), machine.free_memory_bytes, machine.cpu_vendor) == (5, 15, "")
    assert machine.refused_devices == ("a: no",)
    assert [(device.name, device.capability) for device in machine.cuda] == [(name, (7, 5)) for name in "012"]
    assert {(device.total_memory_bytes, device.free_memory_bytes) for device in machine.cuda} == {(24 * 10**9, 20 * 10**9)}
    assert not machine.multiplies_bf16
    flags = [node("a", 2, bf16_flags=("amx_bf16", "avx512_bf16")), node("b", 2, bf16_flags=("avx512_bf16",))]
    assert common_machine(flags).bf16_flags == ("avx512_bf16",)


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (
            [node("a", 2, 2), node("b", 2, 2)],
            {"purpose": "final", "ranks": 3},
            "--backend ray: the trainer in 3 ranks (final.ranks) needs 3 CPUs and 3 GPUs on one node, and no node has them "
            "(a: 2 CPUs and 2 GPUs; b: 2 CPUs and 2 GPUs); add a larger node, or set final.ranks to a lower number",
        ),
        (
            [node("a", 2), node("b", 3)],
            {"purpose": "final", "ranks": 4},
            "the trainer in 4 ranks (final.ranks) needs 4 CPUs on one node, and no node has them (a: 2 CPUs; b: 3 CPUs)",
        ),
        (
            [node("a", 2), node("b", 2)],
            {"evaluators": 2},
            "2 evaluators and a trainer need 3 groups of 2 cores with 0.0 GB of memory each, and the cluster has 2 (a: 2 "
            "CPUs; b: 2 CPUs); add nodes, or set fewer evaluators",
        ),
    ],
)
def test_what_no_node_can_meet_is_refused_with_what_was_asked_and_what_there_is(
    experiment: Experiment, nodes: Sequence[Machine], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        placed(nodes, experiment, **options)


@pytest.mark.parametrize(
    ("placed", "waiting", "without"),
    [
        ([], [Needs(1), Needs(1), Needs(1)], {2}),
        ([("a", Needs(1))], [Needs(1), Needs(0.5), Needs(0.5)], {1, 2}),
        ([("lost", Needs(1))], [Needs(1), Needs(1)], set()),
        ([], [Needs(0.5, 1), Needs(0.5, 1)], {1}),
        ([], [Needs(2)], {0}),
        ([("a", Needs(0.9)), ("b", Needs(0.7))], [Needs(0.1), Needs(0.3)], set()),
    ],
)
def test_who_has_no_room_beside_the_placed_and_the_earlier_ones(
    placed: list[tuple[str, Needs]], waiting: list[Needs], without: set[int]
) -> None:
    assert without_room({"a": Needs(1), "b": Needs(1, 1)}, placed, waiting) == without
