"""Decides which worker runs on which device, and all settings that follow from the device; a pure function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from mathsft.config.schema import EvaluationSettings, Experiment
from mathsft.config.study_schema import SearchRange
from mathsft.config.variants import NOTHING_SEARCHED, heaviest, methods, with_heaviest
from mathsft.errors import UserError
from mathsft.footprint import ModelSize
from mathsft.layout import StudyLayout
from mathsft.worker_settings import WorkerDevice, WorkerSettings, WorkerSpec
from mathsft.workers.capacity import MemoryPlan, plan_memory
from mathsft.workers.machine import Machine
from mathsft.workers.split import LEAST_GROUPS, WorkEstimate, scoring_devices, split_cores

Purpose: TypeAlias = Literal["study", "final"]
EngineDtype: TypeAlias = Literal["float32", "bfloat16"]

TRAINER = "mathsft.training.trainer:Trainer"
EVALUATOR = "mathsft.evaluation.evaluator:Evaluator"

MAX_UNSCORED_IN_TURNS = 1
"""max_unscored if trainer and evaluator share a device: each checkpoint is scored before training goes on."""
MAX_UNSCORED_STUDY = 2
"""max_unscored of a study: a pruned trial has been trained at most one eval point too far."""
MAX_UNSCORED_FINAL = 1_000_000
"""max_unscored of a final run: unscored checkpoints wait on disk, and training never waits."""

PACKED_FROM_WIDTH = 512
"""Hidden size from which packed weights are faster on a CPU in fp32. Measured on one thread with 8 to 128 rows: products
are up to 1.7 times as fast at size 576; at 128 to 384 they are no faster, and packing is most of a swap's time."""

WORKER_ENV = {
    "PYTHONUTF8": "1",  # torch reads its UTF-8 files in the locale's encoding
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's numbering of devices; CUDA's default puts the fastest first
    "HF_HUB_OFFLINE": "1",  # the model is a local folder: no request to a server may cause a wait
    "TOKENIZERS_PARALLELISM": "false",  # its threads would outnumber the cores, and it warns at each process start
}
CUDA_TRAINER_ENV = WORKER_ENV | {
    # Else micro-batches of many sizes leave gaps in device memory, and pinned vectors are rounded up to a power of two.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True,pinned_max_cached_size_mb:64",
}
EVALUATOR_ENV = WORKER_ENV | {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine in this process: weights by iterator, apply_model; 7 times cheaper
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the V2 runner (default where Triton is installed) refuses V1 logits processors
    "VLLM_LOGGING_LEVEL": "ERROR",  # only errors belong in the log
    "VLLM_NO_USAGE_STATS": "1",  # no usage reports by vLLM
    "DO_NOT_TRACK": "1",  # no usage reports by other libraries
}
CPU_EVALUATOR_ENV = EVALUATOR_ENV | {
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep instead of spinning on cores that the trainer may share
    "TORCHDYNAMO_DISABLE": "1",  # compiling costs more than it saves here; on CUDA flex_attention needs it
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default, a share of all memory, leaves the trainer too little
}
"""VLLM_CPU_OMP_THREADS_BIND stays unset: only vLLM's multiprocess executor reads it (0.32), so an engine in this process
keeps the process's cores."""


@dataclass(frozen=True)
class Placement:
    """Which workers run where, how far training may run ahead of scoring, and a description in words."""

    trainers: tuple[WorkerSpec, ...]
    evaluators: tuple[WorkerSpec, ...]
    max_unscored: int
    description: str

    @property
    def num_training(self) -> int:
        """Return the number of training processes; on CUDA each has its own device."""
        return sum(trainer.ranks for trainer in self.trainers)

    @property
    def shares_device(self) -> bool:
        """Return whether training and scoring slow each other down: on one device, in turns or at the same time."""
        trainer, evaluator = self.trainers[0], self.evaluators[0]
        visible = evaluator.env.get("CUDA_VISIBLE_DEVICES")
        return trainer.device == evaluator.device or (visible is not None and trainer.env["CUDA_VISIBLE_DEVICES"] == visible)


def place(
    machine: Machine,
    experiment: Experiment,
    layout: StudyLayout,
    purpose: Purpose,
    ranks: int | None = None,
    *,
    model: ModelSize | None = None,
    memory_is_short: bool = False,
    evaluators: int | None = None,
    work: WorkEstimate | None = None,
    search: Mapping[str, SearchRange] = NOTHING_SEARCHED,
) -> Placement:
    """Return the workers for this machine: a study has as many trainers as fit, a final run one trainer with several ranks.

    If `ranks` is None, a final run uses all devices except the evaluators', or one process on a CPU. `evaluators` is their
    number; None: the devices are split by the estimated work, and without an estimate there is one. If memory is short and
    there is no CUDA device, training and scoring take turns, and the evaluator's process ends when training begins.
    `model` has the sizes from which the memory of CUDA devices and of their host is planned; without it all is taken to fit.
    `search` may let runs train other weights than the experiment's own; memory is planned for the largest.
    Raises UserError if no CUDA device can be used, if there are not enough for the ranks and evaluators, or if memory is
    too small.
    """
    max_unscored, largest = most_unscored(purpose), with_heaviest(_with_precision(experiment, machine), search)
    if machine.refused_devices and not machine.cuda:
        raise UserError("; ".join(machine.refused_devices))
    if not machine.cuda:
        num_ranks = 1 if purpose == "study" else ranks or 1
        if memory_is_short and evaluators not in (None, 1):
            raise UserError(f"evaluators: {evaluators}, but memory has room for one, in turns; set it to 1 or null")
        training, scoring = split_cores(machine, largest, model, evaluators, None if memory_is_short else work)
        if purpose == "final":  # one run, with the cores of all groups
            training = [tuple(core for cores in training for core in cores)]
        placement = place_on_cpu(
            machine, experiment, layout, max_unscored, num_ranks, training, scoring, in_turns=memory_is_short
        )
        return completed(placement, experiment, search, None if evaluators else work)
    num_devices = len(machine.cuda)
    if evaluators is not None and evaluators > max(1, num_devices - 1):
        raise UserError(
            f"evaluators: {evaluators}, but {num_devices} CUDA devices have room for {max(1, num_devices - 1)} beside a "
            "trainer; lower it, or set it to null"
        )
    num_free = max(1, num_devices - (evaluators or 1))
    if purpose == "final" and ranks is not None and ranks > num_free:
        beside = f"{evaluators} evaluators" if evaluators and evaluators > 1 else "the evaluator"
        raise UserError(
            f"final.ranks: {ranks}, but {num_devices} CUDA devices have room for {num_free} beside {beside}; "
            f"lower it to {num_free}, or set it to null"
        )
    wanted = evaluators or scoring_devices(work, num_devices, ranks if purpose == "final" else None)
    for num_evaluators in range(wanted, 0, -1):
        try:
            plan = _planned(machine, largest, purpose, ranks, num_evaluators, model)
        except UserError:
            # Fewer evaluators leave devices for more ranks, which need less memory each.
            if evaluators or num_evaluators == 1 or purpose == "study":
                raise
        else:
            break
    placement = _place_on_cuda(machine, experiment, layout, max_unscored, plan, request_rank(experiment, search))
    return completed(placement, experiment, search, None if evaluators else work)


def _planned(
    machine: Machine,
    experiment: Experiment,
    purpose: Purpose,
    ranks: int | None,
    num_evaluators: int,
    model: ModelSize | None,
) -> MemoryPlan:
    """Return the memory plan with this many evaluators; raise UserError if memory is too small for it."""
    num_free = max(1, len(machine.cuda) - num_evaluators)
    plan = plan_memory(
        machine,
        experiment,
        model,
        num_free if purpose == "study" else 1,
        1 if purpose == "study" else ranks or num_free,
        num_evaluators,
        engine_bytes=2 if engine_dtype(experiment.evaluation, machine) == "bfloat16" else 4,
        max_ranks=1 if purpose == "study" else num_free,
    )
    if ranks is not None and plan.num_ranks < ranks and purpose == "final":
        raise UserError(
            f"final.ranks: {ranks}, but host memory has room for {plan.num_ranks}; lower it, or free some memory"
        )
    return plan


def request_rank(experiment: Experiment, search: Mapping[str, SearchRange]) -> int:
    """Return the largest rank of the study's adapters if vLLM can serve all of its checkpoints as LoRA requests, else 0.

    It cannot swap all weights of an engine that serves requests, and it refuses DoRA.
    """
    largest = heaviest(experiment.training, search)
    as_requests = largest.method == "lora" and not largest.lora.dora and experiment.evaluation.load == "swap"
    return largest.lora.rank if as_requests else 0


def most_unscored(purpose: Purpose) -> int:
    """Return max_unscored of workers that do not take turns."""
    return MAX_UNSCORED_STUDY if purpose == "study" else MAX_UNSCORED_FINAL


def completed(
    placement: Placement, experiment: Experiment, search: Mapping[str, SearchRange], work: WorkEstimate | None
) -> Placement:
    """Return the placement whose workers know the methods of all runs, with the estimate that split them, if one did."""
    all_methods = methods(experiment.training, search)

    def changed(specs: tuple[WorkerSpec, ...]) -> tuple[WorkerSpec, ...]:
        return tuple(replace(spec, settings=replace(spec.settings, methods=all_methods)) for spec in specs)

    is_split = work is not None and placement.num_training + len(placement.evaluators) >= LEAST_GROUPS
    return replace(
        placement,
        trainers=changed(placement.trainers),
        evaluators=changed(placement.evaluators),
        description=f"{placement.description}; {work}" if is_split else placement.description,
    )


def engine_dtype(evaluation: EvaluationSettings, machine: Machine) -> EngineDtype:
    """Return the number format of the engine; "auto" is bf16 on CUDA devices that multiply it natively, else fp32.

    Raises UserError if a CUDA device is too old for bf16, because vLLM refuses it there.
    """
    can_bf16 = bool(machine.cuda) and machine.multiplies_bf16
    if evaluation.precision == "bf16" and machine.cuda and not can_bf16:
        raise UserError(
            f"evaluation.precision: bf16, but vLLM needs it natively ({machine.bf16_evidence}); set it to fp32 or auto"
        )
    dtypes: dict[str, EngineDtype] = {"auto": "bfloat16" if can_bf16 else "float32", "fp32": "float32", "bf16": "bfloat16"}
    return dtypes[evaluation.precision]


def _with_precision(experiment: Experiment, machine: Machine) -> Experiment:
    """Return the experiment with training.precision resolved for this machine."""
    training = experiment.training
    precision = machine.auto_precision if training.precision == "auto" else training.precision
    return experiment.model_copy(update={"training": training.model_copy(update={"precision": precision})})


def packs_from_width(engine_dtype: EngineDtype) -> int:
    """Return the hidden size from which an engine on a CPU packs weights; below it, packing costs more than it saves."""
    return PACKED_FROM_WIDTH if engine_dtype == "float32" else 0


def place_on_cpu(
    machine: Machine,
    experiment: Experiment,
    layout: StudyLayout,
    max_unscored: int,
    ranks: int,
    training: Sequence[tuple[int, ...]],
    scoring: Sequence[tuple[int, ...]],
    *,
    in_turns: bool,
) -> Placement:
    """In turns the workers share a device, and the evaluator's process ends when training begins."""

    def spec(target: str, device: str, env: dict[str, str], cpus: tuple[int, ...], ranks: int) -> WorkerSpec:
        worker_device = _worker_device(machine, max(1, len(cpus) // ranks), experiment.evaluation)
        # OpenMP reads this when it is loaded; else it would count all cores.
        env = env | {"OMP_NUM_THREADS": str(worker_device.num_threads)}
        return WorkerSpec(target, WorkerSettings(experiment, worker_device, layout), device, env, cpus, ranks)

    first = 0 if in_turns else len(training)
    engines = [
        spec(EVALUATOR, f"cpu:{index}", CPU_EVALUATOR_ENV, cpus, 1) for index, cpus in enumerate(scoring, start=first)
    ]
    reason = ", in turns, because the memory is too small for both at once" if in_turns else ""
    return Placement(
        trainers=tuple(spec(TRAINER, f"cpu:{index}", WORKER_ENV, cpus, ranks) for index, cpus in enumerate(training)),
        evaluators=tuple(replace(engine, ends_when_parked=in_turns) for engine in engines),
        max_unscored=MAX_UNSCORED_IN_TURNS if in_turns else max_unscored,
        description=f"no CUDA device: {_cores(training)} for training{_in_ranks(ranks)}, {_cores(scoring)} for "
        f"scoring{reason}",
    )


def _place_on_cuda(
    machine: Machine,
    experiment: Experiment,
    layout: StudyLayout,
    max_unscored: int,
    plan: MemoryPlan,
    max_request_rank: int,
) -> Placement:
    """The evaluators have the last devices; trainers have the first ones, or the same one if it is the only one."""
    names, num_ranks = [device.name for device in machine.cuda], plan.num_ranks
    training, is_shared = names[: plan.num_trainers * num_ranks], len(names) == 1
    scoring = range(len(names) - plan.num_evaluators, len(names))
    in_turns = is_shared and plan.cache_bytes is None
    num_threads = max(1, len(machine.cpus) // (len(training) + len(scoring)))
    worker_device = replace(
        _worker_device(machine, num_threads, experiment.evaluation),
        engine_memory_share=plan.engine_share,
        sleep_mode=in_turns,
        budget_tokens=plan.fit.budget_tokens if plan.fit else None,
        gradient_checkpointing=plan.fit is not None and plan.fit.gradient_checkpointing,
        offload=plan.fit is not None and plan.fit.offload,
        cache_bytes=plan.cache_bytes,
        max_request_rank=max_request_rank,
    )
    # Not for the evaluator: without OMP_NUM_THREADS vLLM loads weights with many threads and serves with one.
    trainer_env = CUDA_TRAINER_ENV | {"OMP_NUM_THREADS": str(num_threads)}

    def spec(target: str, device: str, visible: Sequence[str], env: dict[str, str], ranks: int = 1) -> WorkerSpec:
        # CUDA reads this when it starts; a worker that sees only its own devices cannot use another.
        env = env | {"CUDA_VISIBLE_DEVICES": ",".join(visible)}
        return WorkerSpec(target, WorkerSettings(experiment, worker_device, layout), device, env, (), ranks)

    trainers = tuple(
        spec(TRAINER, f"cuda:{index}", training[index : index + num_ranks], trainer_env, num_ranks)
        for index in range(plan.num_trainers)
    )
    # Workers on devices of other names work at the same time.
    apart = ", engine" if is_shared and not in_turns else ""
    evaluators = tuple(spec(EVALUATOR, f"cuda:{index}{apart}", names[index : index + 1], EVALUATOR_ENV) for index in scoring)
    return Placement(
        trainers=trainers,
        evaluators=evaluators,
        max_unscored=MAX_UNSCORED_IN_TURNS if in_turns else max_unscored,
        description=_cuda_description(machine, experiment, plan, training),
    )


def _cuda_description(machine: Machine, experiment: Experiment, plan: MemoryPlan, training: Sequence[str]) -> str:
    names, settings, fit = [device.name for device in machine.cuda], experiment.training, plan.fit
    last, scoring = names[-1], names[-plan.num_evaluators :]
    if len(names) > 1:
        text = f"CUDA devices: {', '.join(training)} for training{_in_ranks(plan.num_ranks)}, "
        text += f"{', '.join(scoring)} for scoring"
    elif plan.cache_bytes is None:
        text = f"CUDA device {last}: training and scoring take turns"
    else:
        text = f"CUDA device {last}: training and scoring at the same time"
    if fit and fit.budget_tokens < settings.token_budget_tokens:
        text += f", at most {fit.budget_tokens:,} tokens at once"
    if fit and (fit.offload or fit.gradient_checkpointing > settings.gradient_checkpointing):
        state = " and AdamW's state in host memory" if fit.offload else ""
        text += f", with gradient checkpointing{state}, because device memory is small"
    if unused := names[len(training) : -len(scoring)]:
        text += f"; not used: {', '.join(unused)}"
    return "; not used: ".join([text, *machine.refused_devices])


def _worker_device(machine: Machine, num_threads: int, evaluation: EvaluationSettings) -> WorkerDevice:
    dtype = engine_dtype(evaluation, machine)
    return WorkerDevice(
        device="cuda" if machine.cuda else "cpu",
        num_threads=num_threads,
        attention="flex" if machine.cuda else "tree",
        engine_dtype=dtype,
        engine_memory_share=evaluation.memory_share,
        sleep_mode=False,
        numpy_products=machine.is_slow_with_mkl and not machine.cuda,
        packs_from_width=0 if machine.cuda else packs_from_width(dtype),
    )


def _in_ranks(ranks: int) -> str:
    return f" in {ranks} ranks" if ranks > 1 else ""


def _cores(groups: Sequence[Sequence[int]]) -> str:
    """Return the cores of one worker, or the groups of cores of several."""
    cores = "; ".join(", ".join(map(str, cpus)) for cpus in groups)
    if len(groups) > 1:
        return f"{len(groups)} groups of cores ({cores})"
    return f"core{'s' if len(groups[0]) > 1 else ''} {cores}"
