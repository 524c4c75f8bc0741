"""The frozen settings with which worker processes are started, made by placement."""

from dataclasses import dataclass
from typing import Literal

from mathsft.config.schema import Experiment, TrainingSettings
from mathsft.layout import StudyLayout


@dataclass(frozen=True)
class WorkerDevice:
    """The settings of one worker that depend on its device."""

    device: Literal["cpu", "cuda"]
    num_threads: int
    attention: str
    """The trainer's attention: "tree" or "flex" for packed rows, or an implementation of transformers for padded rows."""
    engine_dtype: Literal["float32", "bfloat16"]
    engine_memory_share: float
    sleep_mode: bool
    """The evaluator frees its device memory while another worker uses the device."""
    numpy_products: bool = False
    """The trainer multiplies fp32 matrices with numpy's BLAS on a CPU, instead of torch's."""
    packs_from_width: int = 0
    """Smallest hidden size of models whose weights the engine packs for fast matrix products on a CPU."""
    budget_tokens: int | None = None
    """Largest token budget that is predicted to fit into the trainer's device; None for no limit."""
    gradient_checkpointing: bool = False
    """A step of the trainer is predicted to fit only with gradient checkpointing, so that runs without it get it, too."""
    offload: bool = False
    """The trainer keeps master weights and moments in host memory, because its device has no room for them."""
    max_request_rank: int = 0
    """Largest rank of the adapters that the engine serves as LoRA requests beside the base model's weights; 0: it serves no
    requests, and adapters are merged into the weights that it swaps."""
    cache_bytes: int | None = None
    """Size of the engine's KV cache if a trainer uses the same device at the same time; None: what vLLM finds free."""

    def fitting(self, training: TrainingSettings) -> TrainingSettings:
        """Return a run's settings with the token budget and the checkpointing that fit into the trainer's device."""
        fitting = {
            "token_budget_tokens": min(training.token_budget_tokens, self.budget_tokens or training.token_budget_tokens),
            "gradient_checkpointing": training.gradient_checkpointing or self.gradient_checkpointing,
        }
        return training.model_copy(update=fitting)


@dataclass(frozen=True)
class WorkerSettings:
    """The argument of the constructor of a worker's target."""

    experiment: Experiment
    """The study's experiment; its model.path is a local folder."""
    worker_device: WorkerDevice
    layout: StudyLayout
    methods: tuple[str, ...] = ("full",)
    """Each training.method of the study's runs."""


@dataclass(frozen=True)
class Needs:
    """What a cluster reserves for a worker on one node: processor cores, and CUDA devices or a share of one."""

    num_cpus: float
    num_gpus: float = 0

    def __str__(self) -> str:
        gpus = f" and {self.num_gpus:g} GPUs" if self.num_gpus else ""
        return f"{self.num_cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class WorkerSpec:
    """How to start one worker: a process with this environment constructs the target "module:Class" from the settings."""

    target: str
    settings: WorkerSettings
    device: str
    """The name of the device: "cpu:0", "cuda:1". Workers on the same device take turns."""
    env: dict[str, str]
    cpus: tuple[int, ...]
    """Processor cores that the process may use; empty for all."""
    ranks: int = 1
    """Number of processes that answer each call together; on CUDA all see the same devices, and rank n uses the n-th."""
    ends_when_parked: bool = False
    """The process ends when another worker gets the device, and the next turn starts a new process."""
    needs: Needs | None = None
    """None on this machine, where `cpus` and the environment name the cores and devices."""
