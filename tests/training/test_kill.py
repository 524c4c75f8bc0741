"""A trainer that is killed again and again, in real processes, ends with exactly an undisturbed one's curve and weights."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mathsft.worker_settings import WorkerSettings
from tests.training.published import curve, names_in

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("kill_trainer.py")
NUM_STEPS, NUM_KILLS, SEEDS = 60, 9, (0, 1, 2)


def test_a_killed_trainer_ends_like_an_undisturbed_one(
    make_model: Callable[..., Path], make_settings: Callable[..., WorkerSettings], tmp_path: Path
) -> None:
    experiment = make_settings(make_model(tied=True)).experiment
    arguments = [experiment.model.path, experiment.data.source, tmp_path, NUM_STEPS, NUM_KILLS, *SEEDS]
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout)
    print(results)

    expected = curve(tmp_path / "undisturbed")
    assert [line["step"] for line in expected] == list(range(1, NUM_STEPS + 1))
    assert len({step for study in results for step in results[study]["steps_at_kills"]}) > 4
    for study in (f"killed-{seed}" for seed in SEEDS):
        assert curve(tmp_path / study) == expected
        assert results[study]["fingerprint"] == results["undisturbed"]["fingerprint"]
        left = names_in(tmp_path / study / "runs" / "trial-0")
        assert left == ["full-state.safetensors", "metrics.jsonl", "step-000030", "step-000060"]
