"""Chooses the workers of a study or a final run from its settings, the machine or the cluster, and the forecast."""

from collections.abc import Sequence
from functools import partial

from mathsft.accounting.forecast import is_memory_short
from mathsft.accounting.work_estimate import estimated_work
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig
from mathsft.footprint import ModelSize
from mathsft.layout import StudyLayout
from mathsft.store.study_store import StudyStore
from mathsft.workers.cluster_placement import place_on_cluster
from mathsft.workers.machine import Machine
from mathsft.workers.placement import Placement, Purpose, place


def planned_workers(
    machine: Machine,
    config: StudyConfig,
    experiment: Experiment,
    model: ModelSize | None,
    layout: StudyLayout,
    purpose: Purpose,
    store: StudyStore | None,
    nodes: Sequence[Machine] = (),
) -> Placement:
    """Return the placement for the memory that is free now; without a model's size nothing is planned by memory.

    With the nodes of a cluster, the workers are for these; the machine is what they have in common.
    """
    num_parameters = model.num_parameters if model is not None else None
    placed = partial(place_on_cluster, nodes) if nodes else partial(place, machine)
    return placed(
        experiment,
        layout,
        purpose,
        config.final.ranks,
        model=model,
        memory_is_short=model is not None and is_memory_short(experiment, model, machine.free_memory_bytes, config.search),
        search=config.search,
        evaluators=config.evaluators,
        work=estimated_work(config, experiment, num_parameters, purpose, store, on_cuda=bool(machine.cuda)),
    )
