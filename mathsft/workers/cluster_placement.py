"""Decides which workers a cluster gets and what each of them needs; the scheduler chooses the nodes. A pure function."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import SearchRange
from mathsft.config.variants import NOTHING_SEARCHED, with_heaviest
from mathsft.errors import UserError
from mathsft.footprint import ModelSize
from mathsft.layout import StudyLayout
from mathsft.worker_settings import Needs, WorkerSpec
from mathsft.workers.capacity import cpu_bytes
from mathsft.workers.machine import CudaDevice, Machine
from mathsft.workers.placement import Placement, Purpose, completed, most_unscored, place, place_on_cpu
from mathsft.workers.split import CPU_GROUP_CORES, WorkEstimate, scoring_devices

Value = TypeVar("Value", int, tuple[int, int])


def common_machine(nodes: Sequence[Machine]) -> Machine:
    """Return what a worker can rely on, whichever node it gets; only nodes with CUDA devices count if there are any.

    It has all their devices, numbered over the nodes, each with the least memory and capability, because any worker may get
    any of them. Cores and host memory are summed.
    """
    used = _used(nodes)
    devices = [device for node in used for device in node.cuda]
    weakest = CudaDevice(
        "",
        _least(device.capability for device in devices),
        _least(device.total_memory_bytes for device in devices),
        _least(device.free_memory_bytes for device in devices),
    )
    vendors = {node.cpu_vendor for node in used}
    return Machine(
        cpus=tuple(range(sum(len(node.cpus) for node in used))),
        bf16_flags=tuple(flag for flag in used[0].bf16_flags if all(flag in node.bf16_flags for node in used)),
        cuda=tuple(replace(weakest, name=str(index)) for index in range(len(devices))),
        free_memory_bytes=sum(node.free_memory_bytes for node in used),
        cpu_vendor=vendors.pop() if len(vendors) == 1 else "",
        refused_devices=tuple(f"{node.name}: {line}" for node in nodes for line in node.refused_devices),
    )


def place_on_cluster(
    nodes: Sequence[Machine],
    experiment: Experiment,
    layout: StudyLayout,
    purpose: Purpose,
    ranks: int | None = None,
    *,
    model: ModelSize | None = None,
    memory_is_short: bool = False,
    search: Mapping[str, SearchRange] = NOTHING_SEARCHED,
    evaluators: int | None = None,
    work: WorkEstimate | None = None,
) -> Placement:
    """Return the workers for these nodes, as `place` does for one machine: as many as the nodes hold and the work needs.

    All ranks of a run are on one node. One node is used as a machine of its own would be. Raises UserError if no node has
    what a worker needs, with what was asked for and what there is.
    """
    machine = common_machine(nodes)
    placed = partial(
        place,
        machine,
        experiment,
        layout,
        purpose,
        model=model,
        memory_is_short=memory_is_short,
        search=search,
        evaluators=evaluators,
        work=work,
    )
    if machine.cuda:
        most = max(1, len(machine.cuda) - (evaluators or 1))
        placement = _place_on_gpus(_used(nodes), placed, most if purpose == "final" else None, ranks)
    elif len(nodes) == 1:
        placement = placed(ranks)
        num_used = sum(len(spec.cpus) for spec in (*placement.trainers, *placement.evaluators))
        share = min(1.0, len(machine.cpus) / num_used)  # below 1 if both workers use a single core
        placement = _with_needs(placement, lambda spec: Needs(len(spec.cpus) * share))
    else:
        placement = _place_on_groups(nodes, machine, experiment, layout, purpose, ranks, model, search, evaluators, work)
    for spec in (*placement.trainers, *placement.evaluators):
        _check(spec, nodes)
    return placement


def _place_on_gpus(
    nodes: Sequence[Machine], placed: Callable[[int | None], Placement], max_ranks: int | None, ranks: int | None
) -> Placement:
    """A final run, which has max_ranks, trains on one node at most; each other worker has one device."""
    if max_ranks is not None and ranks is None and len(nodes) > 1:
        ranks = min(max_ranks, max(len(node.cuda) for node in nodes))
    placement = placed(ranks)
    cpus = min(len(node.cpus) / len(node.cuda) for node in nodes)
    cpus_each = int(cpus) or cpus  # Ray takes fractions only below 1
    gpus_each = 0.5 if placement.shares_device else 1
    placement = _with_needs(placement, lambda spec: Needs(spec.ranks * cpus_each * gpus_each, spec.ranks * gpus_each))
    return replace(placement, description=f"{_counted(nodes)}: {placement.description}")


def _place_on_groups(
    nodes: Sequence[Machine],
    machine: Machine,
    experiment: Experiment,
    layout: StudyLayout,
    purpose: Purpose,
    ranks: int | None,
    model: ModelSize | None,
    search: Mapping[str, SearchRange],
    evaluators: int | None,
    work: WorkEstimate | None,
) -> Placement:
    """Each worker has a group of cores of one size on all nodes, because the number of threads changes the rounding."""
    size = min(len(node.cpus) // max(1, len(node.cpus) // CPU_GROUP_CORES) for node in nodes)
    largest, needed_bytes = with_heaviest(experiment, search), 1
    if model is not None:
        needed_bytes = max(cpu_bytes(largest, model, *counts) for counts in ((1, 0), (0, 1)))
    num_groups = sum(min(len(node.cpus) // size, node.free_memory_bytes // needed_bytes) for node in nodes)
    num_scoring = evaluators or scoring_devices(work, num_groups, 1 if purpose == "final" else None)
    if num_groups - num_scoring < 1:
        raise UserError(
            f"--backend ray: {num_scoring} evaluators and a trainer need {num_scoring + 1} groups of {size} cores with "
            f"{needed_bytes / 1e9:.1f} GB of memory each, and the cluster has {num_groups} ({_offers(nodes)}); add nodes, "
            "or set fewer evaluators"
        )
    num_training = num_groups - num_scoring if purpose == "study" else 1
    groups = [tuple(range(index * size, (index + 1) * size)) for index in range(num_training + num_scoring)]
    num_ranks = 1 if purpose == "study" else ranks or 1
    placement = place_on_cpu(
        machine,
        experiment,
        layout,
        most_unscored(purpose),
        num_ranks,
        groups[:num_training],
        groups[num_training:],
        in_turns=False,
    )
    placement = _with_needs(placement, lambda spec: Needs(max(size, spec.ranks)))
    cores = f"{size} core{'s' if size > 1 else ''} each"
    numbers = ", ".join(
        f"{number} {kind}{'s' if number > 1 else ''}"
        for number, kind in ((num_training, "trainer"), (num_scoring, "evaluator"))
    )
    placement = replace(placement, description=f"{_counted(nodes)} without CUDA devices: {numbers}, {cores}")
    return completed(placement, experiment, search, None if evaluators else work)


def _with_needs(placement: Placement, needs: Callable[[WorkerSpec], Needs]) -> Placement:
    """Return the placement with what each worker needs instead of the names of its cores."""

    def changed(specs: tuple[WorkerSpec, ...]) -> tuple[WorkerSpec, ...]:
        return tuple(replace(spec, cpus=(), needs=needs(spec)) for spec in specs)

    return replace(placement, trainers=changed(placement.trainers), evaluators=changed(placement.evaluators))


def _check(spec: WorkerSpec, nodes: Sequence[Machine]) -> None:
    """Raise UserError if no node has what a worker needs: Ray would wait for one for ever."""
    assert spec.needs is not None
    for node in nodes:
        if len(node.cpus) >= spec.needs.num_cpus and len(node.cuda) >= spec.needs.num_gpus:
            return
    kind = spec.target.rpartition(":")[2].lower()
    in_ranks = f" in {spec.ranks} ranks (final.ranks)" if spec.ranks > 1 else ""
    raise UserError(
        f"--backend ray: the {kind}{in_ranks} needs {spec.needs} on one node, and no node has them ({_offers(nodes)}); add "
        "a larger node, or set final.ranks to a lower number"
    )


def _used(nodes: Sequence[Machine]) -> list[Machine]:
    return [node for node in nodes if node.cuda] or list(nodes)


def _least(values: Iterable[Value | None]) -> Value | None:
    return min((value for value in values if value is not None), default=None)


def _counted(nodes: Sequence[Machine]) -> str:
    return f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"


def _offers(nodes: Sequence[Machine]) -> str:
    return "; ".join(f"{node.name}: {Needs(len(node.cpus), len(node.cuda))}" for node in nodes)
