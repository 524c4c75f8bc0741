"""Compares the time of run_study.py with that of a naive pipeline, on the same eight settings.

`python -m bench.study` prints a table and, as its last line, JSON. The naive pipeline (bench.naive_study) is one script: an
in-process Optuna objective, transformers' Trainer with its defaults on padded batches, and for each trial a new vLLM engine
with vLLM's defaults. Both sides train each setting on the same number of examples and steps, and score it once on the same
200 problems. The first two trials of run_study.py are left out with the start of its processes; the naive pipeline does not
run them, because it starts an engine in each trial. Accuracies are shown but not compared.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import optuna
import psutil
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from bench.processes import start_bench
from mathsft.accounting.ledger import IDLE, cost_ledger
from mathsft.layout import StudyLayout
from mathsft.store.study_store import StudyStore
from mathsft.workers.host import die_with

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ((1e-3, 32), (3e-4, 16), (1e-3, 64), (3e-3, 64), (3e-3, 32), (1e-3, 16), (3e-4, 8), (3e-3, 128))
"""Learning rate and batch size of each trial; the first pair is the experiment's, which trial 0 of every study has."""
NUM_EXAMPLES = 1536
NUM_FIRST = 2
"""Trials that both sides leave out: run_study trains two before the evaluator's first score, and the third waits for it."""


@dataclass(frozen=True)
class Side:
    """One side's wall-clock seconds for the trials after the second, its activities, and its CPU-seconds per trial."""

    name: str
    wall_seconds: float
    cpu_seconds: float
    activities: dict[str, float]
    accuracies: tuple[float, ...]


def main() -> None:
    """Run both sides one after the other and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m bench.study", description="A study against the naive pipeline.")
    parser.add_argument("--trials", type=int, default=len(SETTINGS), help=f"trials of each side, 3 to {len(SETTINGS)}")
    num_trials = parser.parse_args().trials
    if not 3 <= num_trials <= len(SETTINGS):
        parser.error(f"--trials must lie between 3 and {len(SETTINGS)}, but is {num_trials}")
    start_bench()
    settings, console = SETTINGS[:num_trials], Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as scratch:
        console.print("run_study …")
        ours, overhead = run_ours(settings, Path(scratch))
        console.print("the naive pipeline …")
        naive = run_naive(settings, Path(scratch))
    console.print(_table((naive, ours)))
    print(result_line(naive, ours, overhead), flush=True)


def run_ours(settings: Sequence[tuple[float, int]], scratch: Path) -> tuple[Side, float]:
    """Run the settings with run_study.py; return its side of the comparison and the driver's overhead."""
    for name in ("experiments", "studies"):
        (scratch / name).mkdir()
    shutil.copy(ROOT / "experiments" / "quickstart.yaml", scratch / "experiments")
    study = {
        "experiment": "quickstart",
        "num_trials": len(settings),
        "search": {
            "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
            "training.batch_size": {"type": "categorical", "choices": [8, 16, 32, 64, 128]},
        },
        "enqueue": [{"training.learning_rate": rate, "training.batch_size": size} for rate, size in settings[1:]],
        "trial": {"num_examples": NUM_EXAMPLES, "eval_points": [1.0]},
        "final": {"num_examples": NUM_EXAMPLES, "eval_points": [1.0]},
        "selection": {"num_proposed": 0, "round_trials": [], "round_problems": []},
    }
    path = scratch / "studies" / "bench.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    command = [sys.executable, str(ROOT / "run_study.py"), "--study", str(path)]
    cpu_seconds = _run(command, scratch)
    folder = StudyLayout(path.with_suffix(""))
    return _read_ours(folder, cpu_seconds)


def _read_ours(folder: StudyLayout, cpu_seconds: float) -> tuple[Side, float]:
    """Return the study's times from its records, from the start of the third trial to the end of the last."""
    store = StudyStore.open(folder.database_url, folder.root.name)
    try:
        trials = store.runs("trial")
        later = [run.name for run in trials[NUM_FIRST:]]
        train = sum(sum(each.costs.seconds.values()) for name in later for each in store.checkpoints(name))
        evaluate = sum(sum(each.costs.seconds.values()) for name in later for each in store.scores(name))
        activities = {
            f"{account.worker}: {activity}": seconds
            for account in cost_ledger(store).worker_times
            for activity, seconds in account.seconds.items()
            if activity != IDLE
        }
        accuracies = tuple(trial.value or 0.0 for trial in trials)
    finally:
        store.close()
    asked = optuna.load_study(study_name=folder.root.name, storage=folder.database_url).trials
    wall_seconds = (_known(asked[-1].datetime_complete) - _known(asked[NUM_FIRST].datetime_start)).total_seconds()
    overhead = wall_seconds / max(train, evaluate) - 1
    return Side("run_study", wall_seconds, cpu_seconds / len(trials), activities, accuracies), overhead


def _known(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment


def run_naive(settings: Sequence[tuple[float, int]], scratch: Path) -> Side:
    """Run the settings after the second with the naive pipeline, in its own process."""
    out = scratch / "naive.json"
    command = [sys.executable, "-m", "bench.naive_study", str(out), str(NUM_EXAMPLES), json.dumps(settings[NUM_FIRST:])]
    _run(command, scratch)
    report = json.loads(out.read_text(encoding="utf-8"))
    trials = report["trials"]
    activities: dict[str, float] = {}
    for trial in trials:
        for name, seconds in trial["seconds"].items():
            activities[name] = activities.get(name, 0.0) + seconds
    return Side(
        "naive pipeline",
        sum(trial["wall_seconds"] for trial in trials),
        report["cpu_seconds"] / len(trials),
        activities,
        tuple(trial["accuracy"] for trial in trials),
    )


def _run(command: Sequence[str], scratch: Path) -> float:
    """Run a command; return the CPU-seconds of it and of its child processes. Raises RuntimeError if it fails."""
    before = _children_seconds()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ends_with_bench = partial(die_with, os.getpid())
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, preexec_fn=ends_with_bench)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return _children_seconds() - before


def _children_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def _table(sides: Sequence[Side]) -> Table:
    table = Table(title="Trials after the second", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("", "wall", "CPU-s per trial", "time by activity", "accuracies"):
        table.add_column(header)
    for side in sides:
        spent = sorted(side.activities.items(), key=lambda item: -item[1])
        where = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent if seconds >= 0.05)
        accuracies = " ".join(f"{accuracy:.1%}" for accuracy in side.accuracies)
        table.add_row(side.name, f"{side.wall_seconds:.1f} s", f"{side.cpu_seconds:.0f}", where, accuracies)
    return table


def result_line(naive: Side, ours: Side, overhead: float) -> str:
    """Return the bench's last line: one JSON object."""
    ratios = {
        "naive_over_ours": round(naive.wall_seconds / ours.wall_seconds, 2),
        "driver_overhead": round(overhead, 4),
        "naive_cpu_over_ours": round(naive.cpu_seconds / ours.cpu_seconds, 2),
    }
    return json.dumps(ratios)


if __name__ == "__main__":
    main()
