"""A trainer that is killed again and again, in real processes, ends with exactly an undisturbed one's curve and weights."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mathsft.worker_settings import WorkerSettings

pytestmark = pytest.mark.slow

TIMED = ("seconds", "flop_utilization")
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

    def curve(study: str) -> list[dict[str, Any]]:
        lines = (tmp_path / study / "runs" / "trial-0" / "metrics.jsonl").read_text().splitlines()
        return [{name: value for name, value in json.loads(line).items() if name not in TIMED} for line in lines]

    expected = curve("undisturbed")
    assert [line["step"] for line in expected] == list(range(1, NUM_STEPS + 1))
    assert len({step for study in results for step in results[study]["steps_at_kills"]}) > 4
    for study in (f"killed-{seed}" for seed in SEEDS):
        assert curve(study) == expected
        assert results[study]["fingerprint"] == results["undisturbed"]["fingerprint"]
        left = sorted(path.name for path in (tmp_path / study / "runs" / "trial-0").iterdir())
        assert left == ["full-state.safetensors", "metrics.jsonl", "step-000030", "step-000060"]
