"""Compares the predicted and the measured time of the quickstart's study, in fp32 and in bf16.

`python -m bench.forecast` predicts as `run_study.py --dry-run` does, runs the study, and prints a table and, as its last
line, JSON: predicted divided by measured seconds of the whole command, by precision. While a study runs, the remaining time
is predicted from its own trials. Times are wall-clock times, so other programs on the machine falsify the result. A study
with a prediction above LIMIT_SECONDS (bf16 on a CPU that emulates it: over half an hour) is run with fewer trials.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.processes import start_bench
from mathsft.accounting.forecast import StudyTime
from mathsft.accounting.study_costs import LEAST_TRIALS
from mathsft.commands.opening import CommandContext, layout_of
from mathsft.commands.precision import with_precision
from mathsft.commands.predict import Prediction, predicted
from mathsft.commands.stores import store_if_begun
from mathsft.config.load import PRECISION, Loaded, load_settings
from mathsft.records import STATES_WITH_RESULT
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.machine import detect_machine

ROOT = Path(__file__).resolve().parents[1]
STUDY = "quickstart"
PRECISIONS = ("fp32", "bf16")
LIMIT_SECONDS = 420
"""Longest predicted study: both studies together must take less than 15 minutes, even if a prediction is too low."""
LEAST = 2
"""A study with fewer trials is not run."""
SHARES = (0.25, 0.5)
"""Shares of the trials after which the remaining time is predicted."""
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Compared:
    """One predicted and measured time, in seconds."""

    precision: str
    what: str
    predicted: float
    reached: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.reached


def main() -> None:
    """Predict and run both studies; print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m bench.forecast", description="Predicted and measured time of a study.")
    parser.add_argument("--trials", type=int, default=20, help=f"trials of each study, at least {LEAST} (default: 20)")
    num_trials = parser.parse_args().trials
    if num_trials < LEAST:
        parser.error(f"--trials must be at least {LEAST}, but is {num_trials}")
    start_bench()
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    compared = {precision: _in_precision(precision, num_trials, console) for precision in PRECISIONS}
    console.print(table([row for rows in compared.values() for row in rows]))
    print(result_line(compared), flush=True)


def _in_precision(precision: str, num_trials: int, console: Console) -> list[Compared]:
    """Return the comparison of the whole study and of its parts; empty if a study would take too long."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("experiments", "studies"):
            Path(scratch, name).mkdir()
            shutil.copy(ROOT / name / f"{STUDY}.yaml", Path(scratch, name))
        loaded = _loaded(Path(scratch), precision, num_trials)
        prediction = _predicted(loaded, console)
        fewer = fitting_trials(prediction.time, num_trials)
        if fewer < LEAST:
            console.print(f"{precision}: no study is run, because even {LEAST} trials are predicted to take too long")
            return []
        if fewer < num_trials:
            console.print(f"{precision}: {num_trials} trials are predicted to take too long, so {fewer} are run")
            loaded = _loaded(Path(scratch), precision, fewer)
            prediction = _predicted(loaded, console)
        console.print(f"{precision}: predicted {prediction.time.total:.0f} s from {prediction.basis}; running …")
        return _run(loaded, prediction, precision, console)


def fitting_trials(predicted_time: StudyTime, num_trials: int) -> int:
    """Return how many of the predicted trials fit into LIMIT_SECONDS."""
    room = LIMIT_SECONDS - predicted_time.total + predicted_time.trials
    return min(num_trials, max(0, int(room / predicted_time.trials * num_trials)))


def _loaded(scratch: Path, precision: str, num_trials: int) -> Loaded:
    assignments = [f"{PRECISION}={precision}", f"num_trials={num_trials}"]
    return load_settings(str(scratch / "studies" / f"{STUDY}.yaml"), None, assignments)


def _predicted(loaded: Loaded, console: Console) -> Prediction:
    """Return the prediction that `--dry-run` would make now."""
    machine, folder = detect_machine(), layout_of(loaded)
    with Heartbeat(console) as heartbeat, store_if_begun(folder, None) as store:
        return predicted(CommandContext(machine, with_precision(loaded, machine, store), folder, heartbeat), store)


def _run(loaded: Loaded, prediction: Prediction, precision: str, console: Console) -> list[Compared]:
    command = [sys.executable, str(ROOT / "run_study.py"), "--study", str(loaded.study_path)]
    command += ["--set", f"{PRECISION}={precision}", "--trials", str(loaded.study.num_trials)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    wanted = sorted({max(LEAST_TRIALS, round(share * loaded.study.num_trials)) for share in SHARES})
    rests: dict[int, tuple[float, float]] = {}
    log_path = loaded.study_path.with_suffix(".log")
    # SIGTERM must end the study, too. asyncio.run, which the prediction uses, removes earlier handlers.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    started = time.time()
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(command, cwd=loaded.study_path.parents[1], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            while process.poll() is None:
                num_ended = _num_ended(loaded)
                if wanted and wanted[0] <= num_ended < loaded.study.num_trials:
                    wanted.pop(0)
                    now, rest = time.time(), _predicted(loaded, console).time
                    rests[num_ended] = rest.total - rest.start, now  # the workers have already started
                time.sleep(LOOK_SECONDS)
        finally:
            process.terminate()
    ended = time.time()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log_path.read_text(encoding='utf-8')[-4000:]}")
    starting, searching = _phases(loaded)
    predicted_time = prediction.time
    return [
        Compared(precision, f"whole study, {loaded.study.num_trials} trials", predicted_time.total, ended - started),
        Compared(precision, "until the base model is scored", predicted_time.start, starting - started),
        Compared(precision, "trials", predicted_time.trials, searching - starting),
        Compared(precision, "confirm stage and report", predicted_time.confirm, ended - searching),
        *(
            Compared(precision, f"rest, predicted after {num_ended} trials", seconds, ended - now)
            for num_ended, (seconds, now) in rests.items()
        ),
    ]


def _num_ended(loaded: Loaded) -> int:
    if not layout_of(loaded).run("trial-0").exists():
        return 0  # the database may be incomplete
    with store_if_begun(layout_of(loaded), loaded.study.storage) as store:
        return sum(run.state in STATES_WITH_RESULT for run in store.runs("trial")) if store else 0


def _phases(loaded: Loaded) -> tuple[float, float]:
    """Return the times of the first score and of the last score of the search."""
    with store_if_begun(layout_of(loaded), loaded.study.storage) as store:
        assert store is not None
        scored = [call for call in store.worker_calls() if call.pool]
    return min(call.ended for call in scored), max(call.ended for call in scored if call.pool == "search")


def table(rows: Sequence[Compared]) -> Table:
    """Return the comparisons as a table."""
    shown = Table(title="Predicted and measured time", title_justify="left", box=box.SIMPLE_HEAD)
    for header, justify in (("precision", "left"), ("part", "left"), ("predicted", "right"), ("measured", "right")):
        shown.add_column(header, justify=justify)
    shown.add_column("predicted / measured", justify="right")
    for row in rows:
        shown.add_row(row.precision, row.what, f"{row.predicted:.0f} s", f"{row.reached:.0f} s", f"{row.ratio:.2f}")
    return shown


def result_line(compared: Mapping[str, Sequence[Compared]]) -> str:
    """Return the bench's last line: one JSON object, in which a study that was not run is null."""
    return json.dumps({f"{name}_ratio": round(rows[0].ratio, 2) if rows else None for name, rows in compared.items()})


if __name__ == "__main__":
    main()
