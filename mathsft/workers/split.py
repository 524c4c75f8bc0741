"""Splits devices, or groups of processor cores, between training and scoring so that neither waits; pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mathsft import formats
from mathsft.config.schema import Experiment
from mathsft.footprint import ModelSize
from mathsft.workers.capacity import cpu_bytes
from mathsft.workers.machine import Machine


@dataclass(frozen=True)
class WorkEstimate:
    """The estimated seconds of one run's training and scoring, each on one device."""

    train_seconds: float
    score_seconds: float
    what: str
    """The run: "a trial" or "the final run"."""
    basis: str
    """What the estimate is based on."""

    def __str__(self) -> str:
        train, score = (formats.rough_seconds(seconds) for seconds in (self.train_seconds, self.score_seconds))
        return f"on one device {self.what} takes about {train} to train and {score} to score ({self.basis})"


CPU_GROUP_CORES = 4
"""Processor cores of a group, which is split like a CUDA device (chosen, not measured)."""
LEAST_GROUPS = 3
"""With fewer groups or devices there is nothing to decide."""


def scoring_devices(work: WorkEstimate | None, num_devices: int, num_training: int | None = None) -> int:
    """Return how many devices score beside num_training others, or beside all others.

    It is the number with which the slower part takes the least time; of equal ones the smallest. Without an estimate one
    device scores.
    """
    most = num_devices - (num_training or 1)
    if work is None or most <= 1:
        return 1

    def seconds(num_scoring: int) -> float:
        return max(work.train_seconds / (num_training or num_devices - num_scoring), work.score_seconds / num_scoring)

    return min(range(1, most + 1), key=seconds)


def split_cores(
    machine: Machine,
    experiment: Experiment,
    model: ModelSize | None,
    num_evaluators: int | None,
    work: WorkEstimate | None,
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the cores of each trainer and of each evaluator.

    A large CPU is split in groups like CUDA devices, if there is memory for a worker in each. On others one trainer has half
    of the cores, and the odd one. A single core is shared.
    """
    for num_groups in range(len(machine.cpus) // CPU_GROUP_CORES, LEAST_GROUPS - 1, -1):
        if work is None and num_evaluators is None:
            break
        num_scoring = num_evaluators or scoring_devices(work, num_groups)
        num_training = num_groups - num_scoring
        if num_training < 1:
            break
        if model is None or cpu_bytes(experiment, model, num_training, num_scoring) <= machine.free_memory_bytes:
            groups = _dealt(machine.cpus, num_groups)
            return groups[:num_training], groups[num_training:]
    middle = (len(machine.cpus) + 1) // 2
    return [machine.cpus[:middle]], _dealt(machine.cpus[middle:] or machine.cpus, num_evaluators or 1)


def _dealt(cpus: Sequence[int], num_groups: int) -> list[tuple[int, ...]]:
    """Return the cores in groups of neighbours with equal sizes, up to one; groups share cores if there are too few."""
    if num_groups > len(cpus):
        return [(cpus[index % len(cpus)],) for index in range(num_groups)]
    size, num_larger = divmod(len(cpus), num_groups)
    starts = [index * size + min(index, num_larger) for index in range(num_groups + 1)]
    return [tuple(cpus[start:stop]) for start, stop in pairwise(starts)]
