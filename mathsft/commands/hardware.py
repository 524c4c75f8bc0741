"""Shows where the workers would run on hardware that this machine need not have (mathsft doctor --hardware)."""

import argparse
import json
import re
from types import SimpleNamespace

from rich.console import Console

from mathsft import formats
from mathsft.accounting.forecast import model_size
from mathsft.commands.opening import layout_of, load
from mathsft.commands.planned_workers import planned_workers
from mathsft.commands.precision import with_precision
from mathsft.config.load import Loaded
from mathsft.data.models import is_on_hub_only, needs_conversion, resolve_model
from mathsft.errors import OK, USER_ERROR, UserError
from mathsft.footprint import Dimensions, ModelSize
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.machine import CudaDevice, Machine
from mathsft.workers.placement import Placement, Purpose

_PATTERN = re.compile(r"([1-9]\d*)x([1-9]\d*)")
CAPABILITY = (9, 0)
"""Compute capability of the assumed devices: that of an H100."""
CORES_PER_DEVICE, HOST_BYTES_PER_DEVICE = 16, 128 * 10**9
"""Processor cores and free memory of the assumed host, as is usual for rented devices."""

SHIPPED_MODEL = "Qwen/Qwen2.5-Math-1.5B"
_SHIPPED_CONFIG = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
}
"""From the model's config.json, since it need not be on this machine."""
SHIPPED_PARAMETERS = 1_543_714_304


def assumed_machine(text: str) -> Machine:
    """Return a machine with the hardware that a text like "8x80" describes: 8 CUDA devices with 80 GB of free memory each.

    Raises UserError for another text.
    """
    matched = _PATTERN.fullmatch(text)
    if matched is None:
        raise UserError(f"--hardware {text}: expected the number of CUDA devices and the GB of each, as in 1x24 or 8x80")
    num_devices, num_bytes = int(matched[1]), int(matched[2]) * 10**9
    return Machine(
        cpus=tuple(range(num_devices * CORES_PER_DEVICE)),
        bf16_flags=(),
        cuda=tuple(CudaDevice(str(index), CAPABILITY, num_bytes, num_bytes) for index in range(num_devices)),
        free_memory_bytes=num_devices * HOST_BYTES_PER_DEVICE,
    )


def known_size(path: str) -> ModelSize | None:
    """Return the sizes of a model that is on this machine or that a shipped experiment names; None for others."""
    if path == SHIPPED_MODEL:
        dimensions = Dimensions(SimpleNamespace(**_SHIPPED_CONFIG))
        return ModelSize(SHIPPED_PARAMETERS, 2 * SHIPPED_PARAMETERS, dimensions, dimensions.linears)
    return None if is_on_hub_only(path) or needs_conversion(path) else model_size(resolve_model(path))


def placements_on(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return which workers a study and its final run would start on the assumed hardware, as text, and the exit code.

    Nothing is checked. The exit code is 2 if one of them does not fit; the text then says what would.
    """
    machine = assumed_machine(arguments.hardware)
    loaded = with_precision(load(arguments, machine, Console(quiet=True)), machine, None)
    path = loaded.experiment.model.path
    model, exit_code = known_size(path), OK
    placed: dict[str, list[str]] = {}
    for purpose, placement in placements(machine, loaded, model, None).items():
        if isinstance(placement, UserError):
            placed[purpose], exit_code = [f"does not fit: {placement}"], USER_ERROR
        else:
            placed[purpose] = [placement.description, *_workers(placement)]
    size = f"{model.num_parameters / 1e9:.2f} B parameters" if model else "not on this machine, so memory is not planned"
    facts = {
        "hardware": arguments.hardware,
        "study": loaded.study_name,
        "experiment": loaded.experiment_name,
        "model": f"{path} ({size})",
    }
    if arguments.json:
        return json.dumps({**facts, "placements": placed}, indent=2), exit_code
    lines = [", ".join(f"{name} {value}" for name, value in facts.items())]
    for name, (description, *workers) in placed.items():
        lines += [f"{name}: {description}", *(f"  {line}" for line in workers)]
    return "\n".join(lines), exit_code


def placements(
    machine: Machine, loaded: Loaded, model: ModelSize | None, store: StudyStore | None
) -> dict[Purpose, Placement | UserError]:
    """Return the placements of the study and of its final run, or why there is none."""
    placed: dict[Purpose, Placement | UserError] = {}
    purposes: tuple[Purpose, ...] = ("study", "final")
    for purpose in purposes:
        try:
            placed[purpose] = planned_workers(
                machine, loaded.study, loaded.experiment, model, layout_of(loaded), purpose, store
            )
        except UserError as error:
            placed[purpose] = error
    return placed


def _workers(placement: Placement) -> list[str]:
    """Return a line for each worker."""
    trainers = [_line("trainer", spec, _training(spec)) for spec in placement.trainers]
    return trainers + [_line("evaluator", spec, _engine(spec)) for spec in placement.evaluators]


def _line(kind: str, spec: WorkerSpec, facts: str) -> str:
    visible, ranks = spec.env["CUDA_VISIBLE_DEVICES"], f" in {spec.ranks} ranks" if spec.ranks > 1 else ""
    return f"{kind} on CUDA {visible}{ranks}: {facts}"


def _training(spec: WorkerSpec) -> str:
    device = spec.settings.worker_device
    training = device.fitting(spec.settings.experiment.training)
    checkpointing = ", gradient checkpointing" if training.gradient_checkpointing else ""
    offload = ", AdamW's state in host memory" if device.offload else ""
    return f"{device.attention} attention, {training.token_budget_tokens:,} tokens at once{checkpointing}{offload}"


def _engine(spec: WorkerSpec) -> str:
    device = spec.settings.worker_device
    cache = f", KV cache of {formats.rough_size(device.cache_bytes)}" if device.cache_bytes is not None else ""
    sleeping = ", sleeps while the trainer works" if device.sleep_mode else ""
    return f"{device.engine_dtype} engine with {device.engine_memory_share:.0%} of the device's memory{cache}{sleeping}"
