"""Shows where the workers would run on hardware that this machine need not have (mathsft doctor --hardware)."""

import argparse
import json
import re

from rich.console import Console

from mathsft.commands.opening import layout_of, load
from mathsft.commands.precision import with_precision
from mathsft.errors import UserError
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.machine import CudaDevice, Machine
from mathsft.workers.placement import Placement, place

_PATTERN = re.compile(r"([1-9]\d*)x([1-9]\d*)")
CAPABILITY = (9, 0)
"""Compute capability of the assumed devices: that of an H100."""
CORES_PER_DEVICE, HOST_GIB_PER_DEVICE = 16, 128
"""Processor cores and free memory of the assumed host, as is usual for rented devices."""


def assumed_machine(text: str) -> Machine:
    """Return a machine with the hardware that a text like "8x80" describes: 8 CUDA devices of 80 GiB each.

    Raises UserError for another text.
    """
    matched = _PATTERN.fullmatch(text)
    if matched is None:
        raise UserError(f"--hardware {text}: expected the number of CUDA devices and the GiB of each, as in 1x24 or 8x80")
    num_devices = int(matched[1])
    return Machine(
        cpus=tuple(range(num_devices * CORES_PER_DEVICE)),
        bf16_flags=(),
        cuda=tuple(CudaDevice(str(index), CAPABILITY) for index in range(num_devices)),
        free_memory_bytes=num_devices * HOST_GIB_PER_DEVICE * 2**30,
    )


def placement_text(arguments: argparse.Namespace) -> str:
    """Return which workers a study and its final run would start on the assumed hardware; nothing is checked."""
    machine = assumed_machine(arguments.hardware)
    loaded = with_precision(load(arguments, machine, Console(quiet=True)), machine, None)
    experiment, layout = loaded.experiment, layout_of(loaded)
    placements = {
        "study": place(machine, experiment, layout, "study"),
        "final run": place(machine, experiment, layout, "final", loaded.study.final.ranks),
    }
    if arguments.json:
        described = {name: {"placement": it.description, "workers": _workers(it)} for name, it in placements.items()}
        return json.dumps(
            {
                "hardware": arguments.hardware,
                "study": loaded.study_name,
                "experiment": loaded.experiment_name,
                "model": experiment.model.path,
                "placements": described,
            },
            indent=2,
        )
    lines = [
        f"{arguments.hardware}: {len(machine.cuda)} assumed CUDA devices; study {loaded.study_name}, experiment "
        f"{loaded.experiment_name}, model {experiment.model.path}"
    ]
    for name, placement in placements.items():
        lines += [f"{name}: {placement.description}", *(f"  {line}" for line in _workers(placement))]
    return "\n".join(lines)


def _workers(placement: Placement) -> list[str]:
    """Return a line for each worker."""
    trainers = [_line("trainer", spec, f"attention {spec.settings.worker_device.attention}") for spec in placement.trainers]
    return trainers + [_line("evaluator", spec, _engine(spec)) for spec in placement.evaluators]


def _line(kind: str, spec: WorkerSpec, facts: str) -> str:
    visible, ranks = spec.env["CUDA_VISIBLE_DEVICES"], f" in {spec.ranks} ranks" if spec.ranks > 1 else ""
    return f"{kind} on CUDA {visible}{ranks}, {spec.settings.worker_device.num_threads} threads, {facts}"


def _engine(spec: WorkerSpec) -> str:
    device = spec.settings.worker_device
    sleeping = ", sleeps while the trainer works" if device.sleep_mode else ""
    return f"{device.engine_dtype} engine with {device.engine_memory_share:.0%} of the device's memory{sleeping}"
