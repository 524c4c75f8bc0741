"""Trains a run undisturbed, and once more per seed in processes that SIGKILL ends at random moments; prints JSON.

`python kill_trainer.py MODEL DATA FOLDER NUM_STEPS NUM_KILLS SEED...` makes the studies FOLDER/undisturbed and /killed-SEED.
Every trainer's process is a fork of this one, which has imported all and trained nothing.
"""

import json
import os
import random
import signal
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch

from mathsft.layout import StudyLayout
from mathsft.records import Run
from mathsft.training.full_state import SavePace
from mathsft.worker_settings import WorkerDevice, WorkerSettings
from tests.build import LEAST_POOLS, make_experiment, make_plan, make_trial
from tests.training.settled import Trainer

BATCH_SIZE = 4
POLL_SECONDS = 2e-4
MAX_STEPS_BETWEEN_KILLS = 12
MAX_SECONDS_INTO_STEP = 0.02


def settings_of(model: str, data: str, study_dir: Path) -> WorkerSettings:
    experiment = make_experiment(model, data, LEAST_POOLS, learning_rate=3e-3, batch_size=BATCH_SIZE)
    return WorkerSettings(
        experiment, WorkerDevice("cpu", 1, "tree", "float32", 0.5, sleep_mode=False), StudyLayout(study_dir)
    )


def train(settings: WorkerSettings, run: Run, num_steps: int) -> None:
    """Train to the middle and to the end, as a driver asks for what is not published; put the fingerprint into a file."""
    trainer = Trainer(settings)
    for step in (num_steps // 2, num_steps):
        if step == num_steps or not settings.layout.checkpoint(run.name, step).exists():
            checkpoint = trainer.advance(run, step)
    (settings.layout.root / "fingerprint").write_text(checkpoint.fingerprint)


def forked(settings: WorkerSettings, run: Run, num_steps: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            train(settings, run, num_steps)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_and_train(settings: WorkerSettings, run: Run, num_steps: int, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill the first num_kills processes, let the next one finish; tell the metrics' lines at each kill."""
    run_dir = settings.layout.run(run.name)
    metrics, partial = run_dir / "metrics.jsonl", run_dir / f".{settings.layout.full_state(run.name).name}.partial"
    rng = random.Random(seed)

    def changed_ns() -> int:
        return metrics.stat().st_mtime_ns if metrics.exists() else 0

    def steps_done() -> int:
        return metrics.read_bytes().count(b"\n")

    steps_at_kills, num_in_save = [], 0
    for number in count():
        unchanged_ns = changed_ns()
        pid = forked(settings, run, num_steps)
        if number < num_kills:
            while not has_ended(pid) and changed_ns() == unchanged_ns:
                time.sleep(POLL_SECONDS)  # it still loads the model
            # In steps and not in seconds, so that kills are spread over the run on a machine of any speed.
            last_step = steps_done() + rng.randrange(MAX_STEPS_BETWEEN_KILLS)
            while not has_ended(pid) and steps_done() < last_step:
                time.sleep(POLL_SECONDS)
            moment = time.perf_counter() + rng.uniform(0, MAX_SECONDS_INTO_STEP)
            # Every third process is killed when it is seen to save.
            while not has_ended(pid) and not (partial.exists() if number % 3 == 0 else time.perf_counter() > moment):
                time.sleep(POLL_SECONDS)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        steps_at_kills.append(steps_done())
        num_in_save += partial.exists()
    if status:
        raise SystemExit(f"the trainer's process ended with {status}")
    fingerprint = (settings.layout.root / "fingerprint").read_text()
    return {"fingerprint": fingerprint, "steps_at_kills": steps_at_kills, "num_in_save": num_in_save}


def main() -> None:
    model, data, folder = sys.argv[1:4]
    num_steps, num_kills, *seeds = map(int, sys.argv[4:])
    torch.set_num_threads(1)
    run = make_trial(plan=make_plan(BATCH_SIZE * num_steps, (0.5, 1.0)))
    results = {"undisturbed": kill_and_train(settings_of(model, data, Path(folder) / "undisturbed"), run, num_steps, 0, 0)}
    steps = count(1)
    # Every third step, so that kills fall on steps, too, that no state holds.
    SavePace.is_due = lambda self, seconds: next(steps) % 3 == 0
    for seed in seeds:
        name = f"killed-{seed}"
        settings = settings_of(model, data, Path(folder) / name)
        results[name] = kill_and_train(settings, run, num_steps, num_kills, seed)
    print(json.dumps(results))


main()
