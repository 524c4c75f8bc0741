"""What a worker process is started with: placement makes it, spawning and the worker's own code read it."""

from dataclasses import dataclass
from typing import Literal

from mathsft.config.schema import Experiment
from mathsft.layout import StudyLayout


@dataclass(frozen=True)
class WorkerDevice:
    """What placement chose for one worker's device."""

    device: Literal["cpu", "cuda"]
    num_threads: int
    attention: str
    """The trainer's kind of attention over packed rows, "tree" or "flex", or one of transformers' own for padded rows."""
    engine_dtype: Literal["float32", "bfloat16"]
    engine_memory_share: float
    sleep_mode: bool
    """The evaluator gives its memory back while another worker has the device."""
    packs_from_width: int = 0
    """The engine packs the weights of models whose hidden size is at least this."""


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker's object is made from."""

    experiment: Experiment
    """model.path is a local folder by now."""
    hardware: WorkerDevice
    layout: StudyLayout


@dataclass(frozen=True)
class WorkerSpec:
    """How to start one worker: target "module:Class" is built as target(settings) in a process with this environment."""

    target: str
    settings: WorkerSettings
    device: str
    """Workers with the same device take turns: "cpu:0", "cuda:1"."""
    env: dict[str, str]
    cpus: tuple[int, ...]
    """Processor cores that the process may use; empty for all."""
    ranks: int = 1
    """Processes that are asked as one, and work together."""
    rank_env: tuple[dict[str, str], ...] = ()
    """What the environment of each rank has beside env, such as a device of its own; empty for nothing."""
    ends_when_parked: bool = False
    """While another worker has the device there is no process; each turn begins with a new one."""
