"""Predicts the time, disk and memory of a study by arithmetic on the costs of its parts."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from safetensors import safe_open

from mathsft import formats
from mathsft.accounting.study_costs import MeanCosts
from mathsft.config.schema import Experiment, TrainingSettings
from mathsft.config.study_schema import FinalSettings, SearchRange, StudyConfig
from mathsft.config.variants import NOTHING_SEARCHED, heaviest, methods, with_heaviest
from mathsft.footprint import ModelSize, checkpoint_bytes, full_state_bytes, held_bytes
from mathsft.records import STATES_WITH_RESULT
from mathsft.runs.contest import Rule
from mathsft.store.study_store import StudyStore
from mathsft.worker_settings import WorkerDevice
from mathsft.workers.capacity import cpu_bytes
from mathsft.workers.placement import Placement

REPORTED = 3
"""Checkpoints of the final run that are scored on the test pool: baseline, best and last."""
_STATES_ON_DISK = 2
"""Full states of a trainer on disk: the one that it keeps, and a new one while it is written."""


@dataclass(frozen=True)
class Work:
    """The work that is left of a study."""

    num_trials: int
    num_confirm_responses: int
    num_finalists: int
    """Trials in the last confirm round, the smallest one."""
    num_horizon_examples: int
    num_horizon_responses: int


@dataclass(frozen=True)
class StudyTime:
    """Predicted seconds of what is left of a study, by its parts."""

    start: float
    trials: float
    confirm: float
    horizon: float

    @property
    def total(self) -> float:
        return self.start + self.trials + self.confirm + self.horizon


@dataclass(frozen=True)
class FinalDisk:
    """Predicted bytes on disk of a final run; while it goes on, its full states are included."""

    most_bytes: int
    """While it goes on, if scoring falls so far behind that no checkpoint can be deleted before the last is written."""
    kept_bytes: int
    """After its end."""
    num_kept: int
    """Checkpoints whose weights are kept: the last, every keep_every-th, and the best, assumed to be another one."""

    def __str__(self) -> str:
        most, kept = formats.rough_size(self.most_bytes), formats.rough_size(self.kept_bytes)
        return f"up to {most} of disk during the run, {kept} after it ({self.num_kept} checkpoints are kept)"


@dataclass(frozen=True)
class Footprint:
    """Predicted disk and memory of a study, and disk of its final run."""

    disk_bytes: int
    final_disk: FinalDisk
    trainer_memory_bytes: int
    evaluator_memory_bytes: int
    num_parameters: int
    num_trained: int
    """Parameters that train, at most."""


# ---- time


def study_time(work: Work, costs: MeanCosts, placement: Placement) -> StudyTime:
    """Predict the time of the work that is left of a study."""
    trials = work.num_trials * _together(costs.train, costs.score, placement)
    # Each finalist of a round is scored by one evaluator.
    confirm = work.num_confirm_responses * costs.response / min(len(placement.evaluators), work.num_finalists)
    horizon_seconds = work.num_horizon_examples * costs.example, work.num_horizon_responses * costs.response
    horizon = _together(*horizon_seconds, placement)
    return StudyTime(costs.start if trials + confirm + horizon else 0.0, trials, confirm, horizon)


def final_seconds(
    settings: FinalSettings, costs: MeanCosts, placement: Placement, num_validation: int, num_test: int
) -> float:
    """Predict the seconds of a final run; num_validation and num_test are the responses of one score on these pools."""
    scored = len({0.0, *settings.eval_points}) * num_validation * costs.response
    # The last checkpoint is scored after training has ended, and then the reported ones, each by one evaluator.
    num_rounds = math.ceil(REPORTED / len(placement.evaluators))
    after = (num_validation + num_rounds * num_test) * costs.response
    return costs.start + _together(settings.num_examples * costs.example, scored, placement) + after


def work_left(config: StudyConfig, num_confirm: int, num_samples: int, store: StudyStore | None) -> Work:
    """Return the work that is left, given the number of problems in the confirm pool and of responses per problem."""
    ended = [run for run in store.runs() if run.state in STATES_WITH_RESULT] if store else []
    scored = [score for score in store.scores() if score.pool.startswith("confirm:")] if store else []
    num_confirmed = sum(score.num_problems for score in scored)
    num_trials = max(0, config.num_trials - sum(run.kind == "trial" for run in ended))
    lengths = [config.horizon.num_examples, config.trial.num_examples] if config.horizon.num_examples else []
    num_horizon = config.horizon.num_rates * len(lengths)
    share_left = 1 - sum(run.kind == "horizon" for run in ended) / num_horizon if num_horizon else 0.0
    return Work(
        num_trials=num_trials,
        num_confirm_responses=max(0, _confirmed_problems(config, num_confirm) - num_confirmed) * num_samples,
        num_finalists=min(1 + min(config.selection.round_trials, default=0), config.num_trials),
        num_horizon_examples=round(share_left * config.horizon.num_rates * sum(lengths)),
        num_horizon_responses=round(share_left * num_horizon * num_confirm * num_samples),
    )


def _confirmed_problems(config: StudyConfig, num_confirm: int) -> int:
    """Return how many problems all finalists solve together; trial 0 takes part in every round beside the best trials."""
    num_confirmed = 0
    for num_kept, pool in Rule(config.search, config.selection, num_confirm).rounds:
        start, stop = map(int, pool.partition(":")[2].split("-"))
        num_confirmed += min(num_kept + 1, config.num_trials) * (stop - start)
    return num_confirmed


def _together(train: float, score: float, placement: Placement) -> float:
    """Return the seconds of training and scoring: the longer one on several devices, the sum on one."""
    if placement.shares_device:
        return train + score
    return max(train / placement.num_training, score / len(placement.evaluators))


# ---- disk and memory


def footprint(
    config: StudyConfig, experiment: Experiment, model_folder: Path, worker_device: WorkerDevice, num_trainers: int
) -> Footprint:
    """Predict disk and memory from the model's size; worker_device is the evaluator's."""
    size, training = model_size(model_folder), heaviest(experiment.training, config.search)
    state_bytes = full_state_bytes(size.num_trained(training))
    return Footprint(
        disk_bytes=checkpoint_bytes(size, training) * (config.num_trials + 2)
        + _base_copy_bytes(size, experiment.training, config.search)
        + num_trainers * _STATES_ON_DISK * state_bytes,
        final_disk=final_disk(config.final, size, training),
        trainer_memory_bytes=held_bytes(size, training) + size.weight_bytes,
        evaluator_memory_bytes=size.num_parameters * (4 if worker_device.engine_dtype == "float32" else 2),
        num_parameters=size.num_parameters,
        num_trained=size.num_trained(training),
    )


def final_disk(settings: FinalSettings, size: ModelSize, training: TrainingSettings) -> FinalDisk:
    """Predict the bytes on disk of a final run with these training settings."""
    num_trained = sum(point > 0 for point in settings.eval_points)
    every = settings.keep_every or num_trained
    kept_points = {num_trained, *range(every, num_trained + 1, every)}
    num_kept = min(num_trained, len(kept_points) + 1)  # and the best one
    saved_bytes, base_bytes = checkpoint_bytes(size, training), _base_copy_bytes(size, training, {})
    state_bytes = full_state_bytes(size.num_trained(training))
    return FinalDisk(
        most_bytes=saved_bytes * (num_trained + 1) + base_bytes + _STATES_ON_DISK * state_bytes,
        kept_bytes=saved_bytes * num_kept + base_bytes,
        num_kept=num_kept,
    )


def _base_copy_bytes(size: ModelSize, training: TrainingSettings, search: Mapping[str, SearchRange]) -> int:
    """Return the bytes of the copy of the base model to which adapters belong."""
    return size.weight_bytes if "lora" in methods(training, search) else 0


def is_memory_short(
    experiment: Experiment, size: ModelSize, free_bytes: int, search: Mapping[str, SearchRange] = NOTHING_SEARCHED
) -> bool:
    """Return whether a trainer and an evaluator on a CPU are predicted to need more than free_bytes of memory together."""
    return free_bytes < cpu_bytes(with_heaviest(experiment, search), size, 1, 1)


def model_size(folder: Path) -> ModelSize:
    """Return a model's sizes; reads only config.json and the headers of the safetensors files."""
    shapes: dict[str, list[int]] = {}
    paths = list(folder.glob("*.safetensors"))
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    weight_bytes = sum(path.stat().st_size for path in paths)
    try:
        config = SimpleNamespace(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        config = SimpleNamespace()
    return ModelSize.of(config, shapes, weight_bytes)
