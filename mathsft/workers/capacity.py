"""Decides how workers share the memory of CUDA devices and of the host, before any of them starts; pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mathsft.config.schema import Experiment, TrainingSettings
from mathsft.errors import UserError
from mathsft.footprint import (
    Fit,
    ModelSize,
    cache_bytes,
    fits,
    fitting_length,
    full_state_bytes,
    held_bytes,
    offloaded_bytes,
)
from mathsft.formats import rough_size
from mathsft.workers.machine import CudaDevice, Machine

DEVICE_SHARE = 0.9
"""Share of a device's free memory for predicted tensors. The rest is for what is not predicted: the CUDA context, compiled
kernels, workspaces of cuBLAS, and gaps."""
SHARED_MEMORY_SHARE = 0.5
"""The engine's largest share of a device that it and a trainer use in turns: vLLM refuses to start unless that much is free,
and a parked trainer still holds its CUDA context."""
SLEEPING_ENGINE_BYTES = 3 * 2**29
"""Device memory of an engine that sleeps: its CUDA context and its CUDA graphs (estimated, not measured)."""
ENGINE_BYTES = 2 * 2**30
"""Device memory of an engine beside weights and KV cache: CUDA context, CUDA graphs, activations (estimated)."""
CACHED_RESPONSES = 64
"""An engine works beside a trainer only if its KV cache has room for this many of the longest texts at once."""
TRAINER_HOST_BYTES, EVALUATOR_HOST_BYTES = 2 * 2**30, 4 * 2**30
"""Host memory of the processes without the model: libraries, pinned buffers, grading processes (estimated)."""
CPU_TRAINER_BYTES, CPU_EVALUATOR_BYTES = 2**30, 9 * 2**28
"""Memory of the processes on a CPU without the model, measured with a tiny one: libraries, small tensors, and in the
evaluator the KV cache and the grading processes. The activations of a large model are not included."""


@dataclass(frozen=True)
class MemoryPlan:
    """How many trainers and ranks have enough memory, and how they and the engine use it."""

    num_trainers: int
    num_ranks: int
    num_evaluators: int
    engine_share: float
    """The share of its device's memory that each engine gets."""
    fit: Fit | None = None
    """Token budget, checkpointing and offload of the trainers; None if the memory cannot be predicted."""
    cache_bytes: int | None = None
    """Size of the engine's KV cache if it and a trainer use one device at the same time, else None."""


def plan_memory(
    machine: Machine,
    experiment: Experiment,
    model: ModelSize | None,
    num_trainers: int,
    num_ranks: int,
    num_evaluators: int,
    *,
    engine_bytes: int,
    max_ranks: int,
) -> MemoryPlan:
    """Return what fits, with at most this many trainers or ranks; engine_bytes are those of a number of the engine.

    max_ranks is the number of ranks that the user could set instead. The last devices are the engines'; if there is only one
    device, the trainer uses it, too: at the same time if both fit, else in turns. Without a model, or where NVML reports no
    memory, all is taken to fit. Raises UserError if a trainer or an engine does not fit into its device or into host
    memory; its line says what fits and what to change.
    """
    device, share = machine.cuda[-1], experiment.evaluation.memory_share
    is_shared = len(machine.cuda) == 1
    in_turns = MemoryPlan(num_trainers, num_ranks, num_evaluators, min(share, SHARED_MEMORY_SHARE) if is_shared else share)
    if model is None:
        return in_turns
    ways, checkpointing = [*fits(model, experiment.training)], experiment.training.gradient_checkpointing
    # Checkpointing takes more time than turns do, and so does offload, which includes it.
    resident = [way for way in ways if not way.offload and way.gradient_checkpointing == checkpointing]
    if is_shared and (together := _together(device, experiment, model, engine_bytes, resident)):
        return _fit_host(machine, model, together, experiment.training)
    plan = _fit_host(machine, model, in_turns, experiment.training)
    for scoring_device in machine.cuda[-num_evaluators:]:
        plan = replace(plan, engine_share=_fit_engine(scoring_device, experiment, model, engine_bytes, plan.engine_share))
    training_devices = machine.cuda[: plan.num_trainers * plan.num_ranks]
    usable = _usable_bytes(training_devices)
    if usable is not None:
        usable -= SLEEPING_ENGINE_BYTES if is_shared else 0
        plan = replace(plan, fit=_fit_training(training_devices, usable, experiment, model, plan.num_ranks, max_ranks))
    if plan.fit is None or not plan.fit.offload:
        return plan
    offloaded = [way for way in ways if way.offload]
    apart = _together(device, experiment, model, engine_bytes, offloaded) if is_shared else None
    return _fit_host(machine, model, apart or plan, experiment.training)


def _usable_bytes(devices: Sequence[CudaDevice]) -> int | None:
    """Return the bytes for predicted tensors on the device with the least free memory; None if NVML does not report it."""
    free = [device.free_memory_bytes for device in devices if device.free_memory_bytes is not None]
    return int(DEVICE_SHARE * min(free)) if len(free) == len(devices) else None


def _together(
    device: CudaDevice, experiment: Experiment, model: ModelSize, engine_bytes: int, ways: Iterable[Fit]
) -> MemoryPlan | None:
    """Return the plan of a trainer and an engine on one device at the same time, or None if it has no room for both."""
    usable, total = _usable_bytes([device]), device.total_memory_bytes
    if usable is None or not total:
        return None
    needed = _engine_need(experiment, model, engine_bytes, CACHED_RESPONSES)
    for fit in ways:
        room = min(usable - fit.peak_bytes, int(experiment.evaluation.memory_share * total))
        if room >= needed:
            cache = room - _engine_need(experiment, model, engine_bytes, 0)
            return MemoryPlan(1, 1, 1, room / total, fit, cache)
    return None


def _engine_need(experiment: Experiment, model: ModelSize, item_bytes: int, num_texts: int) -> int:
    """Return the device memory of an engine whose KV cache has room for this many of the longest texts."""
    needed, sizes = model.num_parameters * item_bytes + ENGINE_BYTES, model.dimensions
    if sizes is None:
        return needed
    head = sizes.vocabulary_size * sizes.hidden_size * 4  # the engine's head computes in fp32
    num_tokens = num_texts * (experiment.training.max_length_tokens + experiment.evaluation.max_tokens)
    return needed + head + cache_bytes(sizes, num_tokens, item_bytes)


def _fit_engine(
    device: CudaDevice, experiment: Experiment, model: ModelSize, engine_bytes: int, memory_share: float
) -> float:
    """Return the engine's share of its device: this one, or less if other programs use the device now."""
    usable, total = _usable_bytes([device]), device.total_memory_bytes
    if usable is None or not total:
        return memory_share
    share = min(memory_share, usable / total)
    needed = _engine_need(experiment, model, engine_bytes, 1)
    if needed > share * total:
        free, most = (rough_size(num_bytes or 0) for num_bytes in (device.free_memory_bytes, share * total))
        raise UserError(
            f"model.path: an engine with {_words(model)} needs {rough_size(needed)} of CUDA device {device.name}, and it "
            f"can have {most} ({free} of {rough_size(total)} are free, evaluation.memory_share is "
            f"{experiment.evaluation.memory_share:g}); free memory there, or take a smaller model or a larger device"
        )
    return share


def _fit_training(
    devices: Sequence[CudaDevice], usable: int, experiment: Experiment, model: ModelSize, num_ranks: int, max_ranks: int
) -> Fit | None:
    """Return the fastest way to train in these usable bytes of each device; None if the memory cannot be predicted."""
    training = experiment.training
    ways = list(fits(model, training, num_ranks))
    for fit in ways:
        if fit.peak_bytes <= usable:
            return fit
    # Of a model of another kind only what it holds between its steps is known.
    needed = min((fit.peak_bytes for fit in ways), default=held_bytes(model, training) // num_ranks)
    if needed <= usable:
        return None
    smallest = min(devices, key=lambda device: device.free_memory_bytes or 0)
    in_ranks = f" in {num_ranks} ranks" if num_ranks > 1 else ""
    state = ", AdamW's state in host memory" if any(fit.offload for fit in ways) else ""
    remedy = _remedy(model, training, usable, needed, num_ranks, max_ranks)
    raise UserError(
        f"model.path: training {_words(model)}{in_ranks} needs {rough_size(needed)} of each CUDA device, with gradient "
        f"checkpointing{state} and the smallest token budget, and {rough_size(usable)} of device {smallest.name} can be "
        f"used ({rough_size(smallest.free_memory_bytes or 0)} are free); {remedy}"
    )


def _remedy(model: ModelSize, training: TrainingSettings, usable: int, needed: int, num_ranks: int, max_ranks: int) -> str:
    """Return what fits: the same model in more ranks, in one (with offload) or with shorter examples, else a smaller one."""
    for other in (*range(num_ranks + 1, max_ranks + 1), 1):
        if any(fit.peak_bytes <= usable for fit in fits(model, training, other)):
            return f"set final.ranks to {other}"
    if length := fitting_length(model, training, usable, num_ranks):
        return f"set training.max_length_tokens to {length}, or take a smaller model or a larger device"
    most = model.num_parameters * max(usable, 0) / needed
    return f"up to about {most / 1e9:.1f} B parameters fit: take a smaller model or a larger device"


def _fit_host(machine: Machine, model: ModelSize, plan: MemoryPlan, training: TrainingSettings) -> MemoryPlan:
    """Return the plan with as many trainers or ranks as host memory allows; raise UserError if it has no room for one."""
    trainers, ranks, offload = plan.num_trainers, plan.num_ranks, plan.fit is not None and plan.fit.offload
    free = machine.free_memory_bytes
    while (needed := host_bytes(model, trainers, ranks, plan.num_evaluators, training, offload=offload)) > free:
        if trainers == ranks == 1:
            purpose = f"load and save {_words(model)}"
            if offload:
                purpose = f"train {_words(model)} with AdamW's state there, because device memory is too small"
            raise UserError(
                f"host memory: {rough_size(needed)} are needed to {purpose}, and "
                f"{rough_size(machine.free_memory_bytes)} are free; free some, or take a smaller model or a larger machine"
            )
        trainers, ranks = max(1, trainers - 1), max(1, ranks - 1)
    return replace(plan, num_trainers=trainers, num_ranks=ranks)


def host_bytes(
    model: ModelSize,
    num_trainers: int,
    num_ranks: int,
    num_evaluators: int,
    training: TrainingSettings | None = None,
    *,
    offload: bool,
) -> int:
    """Return the host memory that these evaluators and trainers need at most; without training settings, all weights train.

    A trainer has the base weights there and, while it publishes, the weights of the checkpoint. It also has a full state:
    of a parked run, on its way to disk, or always with offload, which adds the gradient. A rank loads the model in fp32 and
    copies it before it is sharded, and rank 0 gathers the full state.
    """
    num_parameters = model.num_parameters
    num_trained = model.num_trained(training) if training else num_parameters
    state = full_state_bytes(num_trained)
    process = TRAINER_HOST_BYTES + model.weight_bytes
    if num_ranks > 1:
        return (
            num_evaluators * EVALUATOR_HOST_BYTES + num_ranks * (process + 8 * num_parameters) + state + model.weight_bytes
        )
    held = offloaded_bytes(num_trained) if offload else state
    return num_evaluators * EVALUATOR_HOST_BYTES + num_trainers * (process + model.weight_bytes + held)


def cpu_bytes(experiment: Experiment, model: ModelSize, num_trainers: int, num_evaluators: int) -> int:
    """Return the memory that these workers are predicted to need together on a CPU, without activations."""
    held = held_bytes(model, experiment.training)
    trainer = CPU_TRAINER_BYTES + held + 2 * model.weight_bytes  # the base weights, and those that are being published
    evaluator = CPU_EVALUATOR_BYTES + model.num_parameters * (2 if experiment.evaluation.precision == "bf16" else 4)
    return num_trainers * trainer + num_evaluators * evaluator


def _words(model: ModelSize) -> str:
    return f"a model of {model.num_parameters / 1e9:.2f} B parameters"
