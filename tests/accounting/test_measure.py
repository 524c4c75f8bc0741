"""The process that measures for a forecast: where it runs, and that its troubles end as one line."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from mathsft.accounting import measure
from mathsft.accounting.measure import NotMeasuredError, measured_speeds
from mathsft.config.load import load_settings
from mathsft.data.pools import load_pools
from mathsft.errors import UserError
from mathsft.records import Problem
from mathsft.tasks.quickstart.generator import base_model_folder
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.placement import place
from tests.build import make_machine

pytestmark = pytest.mark.slow  # real processes

PROBLEMS = [Problem(str(number), f"What is {number} + 1?", "It is more.", str(number + 1)) for number in range(2000)]
CORE = min(os.sched_getaffinity(0))


@pytest.fixture
def trainer() -> WorkerSpec:
    loaded = load_settings("quickstart", None, ["training.precision=fp32"])
    model = loaded.experiment.model.model_copy(update={"path": str(base_model_folder())})
    experiment = loaded.experiment.model_copy(update={"model": model})
    spec = place(make_machine(), experiment, Path("/nowhere"), "study").trainers[0]
    return replace(spec, cpus=(CORE,))


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Choose which of the probes in probes.py measures."""
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where the children find it

    def choose(name: str) -> None:
        monkeypatch.setattr(measure, "PROBE", f"probes:{name}")

    yield choose


def test_it_runs_where_and_as_the_trainer_would_and_leaves_nothing(probes: Any, trainer: WorkerSpec) -> None:
    probes("Asked")
    folder, *asked = asyncio.run(measured_speeds(trainer, PROBLEMS, [8, 32], 200))  # type: ignore[misc]
    assert asked == [512, [8, 32], 200, {CORE}, "1"]
    assert not folder.exists()
    _, num_problems, *_ = asyncio.run(measured_speeds(trainer, PROBLEMS, [400], 200))  # type: ignore[misc]
    assert num_problems == 800


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Short", "MemoryError: CUDA out of memory"),
        ("Killed", r"process \d+ was killed by SIGKILL"),
        ("Hanging", "over 2 seconds"),
    ],
)
def test_what_goes_wrong_is_one_line(
    probes: Any, trainer: WorkerSpec, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    probes(name)
    if name == "Hanging":
        monkeypatch.setattr(measure, "LIMIT_SECONDS", 2)
    with pytest.raises(NotMeasuredError, match=f"^.*{message}$"):
        asyncio.run(measured_speeds(trainer, PROBLEMS, [8], 200))


def test_a_users_mistake_stays_one(probes: Any, trainer: WorkerSpec) -> None:
    probes("Refusing")
    with pytest.raises(UserError, match="max_length_tokens = 2"):
        asyncio.run(measured_speeds(trainer, PROBLEMS, [8], 200))


def test_the_quickstart_is_measured(trainer: WorkerSpec) -> None:
    problems = load_pools(trainer.settings.experiment.data)["train"]
    speeds = asyncio.run(measured_speeds(trainer, problems, [2, 64], 200))
    # Larger batches cost less an example, a pass over many tokens less a token, and nothing costs nothing.
    assert speeds.example_seconds > 0
    assert speeds.step_seconds >= 0
    assert 0 < speeds.decoded_token_seconds < speeds.step_seconds + 2 * speeds.example_seconds
    assert 0 < speeds.read_token_seconds < speeds.example_seconds
    assert speeds.ready_seconds > 0
    assert fmean(len(one.problem) for one in problems) > speeds.prompt_tokens > 1
    assert speeds.response_tokens > 1
