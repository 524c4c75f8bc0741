"""Decides which worker runs on which device, and all settings that follow from the device; a pure function."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from mathsft.config.schema import EvaluationSettings, Experiment
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.worker_settings import WorkerDevice, WorkerSettings, WorkerSpec
from mathsft.workers.machine import Machine

Purpose: TypeAlias = Literal["study", "final"]
_EngineDtype: TypeAlias = Literal["float32", "bfloat16"]

TRAINER = "mathsft.training.trainer:Trainer"
EVALUATOR = "mathsft.evaluation.evaluator:Evaluator"

MAX_UNSCORED_IN_TURNS = 1
"""max_unscored if trainer and evaluator share a device: each checkpoint is scored before training goes on."""
MAX_UNSCORED_STUDY = 2
"""max_unscored of a study: a pruned trial has been trained at most one eval point too far."""
MAX_UNSCORED_FINAL = 1_000_000
"""max_unscored of a final run: unscored checkpoints wait on disk, and training never waits."""

SHARED_MEMORY_SHARE = 0.5
"""The engine's largest share of a shared device's memory: vLLM refuses to start unless that much is free, and a parked
trainer still holds its CUDA context."""

PACKED_FROM_WIDTH = 512
"""Hidden size from which packed weights are faster on a CPU in fp32. Measured on one thread with 8 to 128 rows: products
are up to 1.7 times as fast at size 576; at 128 to 384 they are no faster, and packing is most of a swap's time."""

WORKER_ENV = {
    "PYTHONUTF8": "1",  # torch reads its UTF-8 files in the locale's encoding
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's numbering of devices; CUDA's default puts the fastest first
    "HF_HUB_OFFLINE": "1",  # the model is a local folder: no request to a server may cause a wait
    "TOKENIZERS_PARALLELISM": "false",  # its threads would outnumber the cores, and it warns at each process start
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


def place(
    machine: Machine,
    experiment: Experiment,
    layout: StudyLayout,
    purpose: Purpose,
    ranks: int | None = None,
    *,
    memory_is_short: bool = False,
) -> Placement:
    """Return the workers for this machine: a study has as many trainers as fit, a final run one trainer with several ranks.

    If `ranks` is None, a final run uses all devices except the evaluator's, or one process on a CPU. If memory is short and
    there is no CUDA device, training and scoring take turns, and the evaluator's process ends when training begins.
    Raises UserError if there are not enough devices for the ranks.
    """
    max_unscored = MAX_UNSCORED_STUDY if purpose == "study" else MAX_UNSCORED_FINAL
    if not machine.cuda:
        num_ranks = 1 if purpose == "study" else ranks or 1
        return _place_on_cpu(machine.cpus, experiment, layout, max_unscored, num_ranks, in_turns=memory_is_short)
    num_free = max(1, len(machine.cuda) - 1)
    if purpose == "study":
        return _place_on_cuda(machine, experiment, layout, max_unscored, num_free, ranks=1)
    if ranks is not None and ranks > num_free:
        raise UserError(
            f"final.ranks: {ranks}, but {len(machine.cuda)} CUDA devices have room for {num_free} beside the evaluator; "
            f"lower it to {num_free}, or set it to null"
        )
    return _place_on_cuda(machine, experiment, layout, max_unscored, 1, ranks or num_free)


def packs_from_width(engine_dtype: _EngineDtype) -> int:
    """Return the hidden size from which an engine on a CPU packs weights; below it, packing costs more than it saves."""
    return PACKED_FROM_WIDTH if engine_dtype == "float32" else 0


def _place_on_cpu(
    cpus: Sequence[int], experiment: Experiment, layout: StudyLayout, max_unscored: int, ranks: int, *, in_turns: bool
) -> Placement:
    """In turns the workers share a device, and the evaluator's process ends when training begins."""
    middle = (len(cpus) + 1) // 2  # the trainer gets the odd core, and a single core is shared
    trainer_cpus, evaluator_cpus = tuple(cpus[:middle]), tuple(cpus[middle:] or cpus)

    def spec(target: str, device: str, env: dict[str, str], cpus: tuple[int, ...], ranks: int) -> WorkerSpec:
        worker_device = _worker_device("cpu", max(1, len(cpus) // ranks), experiment.evaluation)
        # OpenMP reads this when it is loaded; else it would count all cores.
        env = env | {"OMP_NUM_THREADS": str(worker_device.num_threads)}
        return WorkerSpec(target, WorkerSettings(experiment, worker_device, layout), device, env, cpus, ranks)

    evaluator = spec(EVALUATOR, "cpu:0" if in_turns else "cpu:1", CPU_EVALUATOR_ENV, evaluator_cpus, 1)
    training = f"{_cores(trainer_cpus)} for training{_in_ranks(ranks)}"
    reason = ", in turns, because the memory is too small for both at once" if in_turns else ""
    return Placement(
        trainers=(spec(TRAINER, "cpu:0", WORKER_ENV, trainer_cpus, ranks),),
        evaluators=(replace(evaluator, ends_when_parked=in_turns),),
        max_unscored=MAX_UNSCORED_IN_TURNS if in_turns else max_unscored,
        description=f"no CUDA device: {training}, {_cores(evaluator_cpus)} for scoring{reason}",
    )


def _place_on_cuda(
    machine: Machine, experiment: Experiment, layout: StudyLayout, max_unscored: int, num_trainers: int, ranks: int
) -> Placement:
    """The evaluator has the last device; trainers have the first ones, or the same one if it is the only one."""
    names = [device.name for device in machine.cuda]
    training, shared = names[: num_trainers * ranks], len(names) == 1
    num_threads = max(1, len(machine.cpus) // (len(training) + 1))
    worker_device = _worker_device("cuda", num_threads, experiment.evaluation, shared=shared)
    # Not for the evaluator: without OMP_NUM_THREADS vLLM loads weights with many threads and serves with one.
    trainer_env = WORKER_ENV | {"OMP_NUM_THREADS": str(num_threads)}

    def spec(target: str, index: int, env: dict[str, str]) -> WorkerSpec:
        # CUDA reads this when it starts; a worker that sees only its own device cannot use another.
        env = env | {"CUDA_VISIBLE_DEVICES": names[index]}
        return WorkerSpec(target, WorkerSettings(experiment, worker_device, layout), f"cuda:{index}", env, cpus=())

    trainers = tuple(spec(TRAINER, index, trainer_env) for index in range(num_trainers))
    if ranks > 1:
        rank_env = tuple({"CUDA_VISIBLE_DEVICES": device} for device in training)
        together = {**trainers[0].env, "CUDA_VISIBLE_DEVICES": ",".join(training)}
        trainers = (replace(trainers[0], env=together, ranks=ranks, rank_env=rank_env),)
    separate = f"CUDA devices: {', '.join(training)} for training{_in_ranks(ranks)}, {names[-1]} for scoring"
    return Placement(
        trainers=trainers,
        evaluators=(spec(EVALUATOR, len(names) - 1, EVALUATOR_ENV),),
        max_unscored=MAX_UNSCORED_IN_TURNS if shared else max_unscored,
        description=f"CUDA device {names[0]}: training and scoring take turns" if shared else separate,
    )


def _worker_device(
    device: Literal["cpu", "cuda"], num_threads: int, evaluation: EvaluationSettings, *, shared: bool = False
) -> WorkerDevice:
    on_cpu = device == "cpu"
    dtypes: dict[str, _EngineDtype] = {"auto": "float32" if on_cpu else "bfloat16", "fp32": "float32", "bf16": "bfloat16"}
    engine_dtype = dtypes[evaluation.precision]
    return WorkerDevice(
        device=device,
        num_threads=num_threads,
        attention="tree" if on_cpu else "flex",
        engine_dtype=engine_dtype,
        engine_memory_share=min(evaluation.memory_share, SHARED_MEMORY_SHARE) if shared else evaluation.memory_share,
        sleep_mode=shared,
        packs_from_width=packs_from_width(engine_dtype) if on_cpu else 0,
    )


def _in_ranks(ranks: int) -> str:
    return f" in {ranks} ranks" if ranks > 1 else ""


def _cores(cpus: Sequence[int]) -> str:
    return f"core{'s' if len(cpus) > 1 else ''} {', '.join(map(str, cpus))}"
