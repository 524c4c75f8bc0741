"""The frozen settings with which worker processes are started, made by placement."""

from dataclasses import dataclass
from typing import Literal

from mathsft.config.schema import Experiment
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
    packs_from_width: int = 0
    """Smallest hidden size of models whose weights the engine packs for fast matrix products on a CPU."""


@dataclass(frozen=True)
class WorkerSettings:
    """The argument of the constructor of a worker's target."""

    experiment: Experiment
    """The study's experiment; its model.path is a local folder."""
    worker_device: WorkerDevice
    layout: StudyLayout


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
    """Number of processes that answer each call together."""
    rank_env: tuple[dict[str, str], ...] = ()
    """Additional environment variables of each rank, such as its CUDA device; empty for none."""
    ends_when_parked: bool = False
    """The process ends when another worker gets the device, and the next turn starts a new process."""
