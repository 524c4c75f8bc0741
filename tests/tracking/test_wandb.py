import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from mathsft.config.study_schema import WandbSettings
from mathsft.layout import StudyLayout
from mathsft.records import Run, Score, StepMetrics, WorkerCall
from mathsft.store.study_store import StudyStore
from mathsft.tracking.wandb import WandbObserver
from tests.build import make_experiment, make_metrics, make_plan, make_score, make_trial, make_worker_call

Reader: TypeAlias = Callable[[Path], list[Any]]

STUDY = "my study"
TRIAL = make_trial(0, {"training.learning_rate": 1e-3, "training.batch_size": 16}, make_plan(64, (0.5, 1.0)), seed=7)
EXPERIMENT = make_experiment(learning_rate=5e-5, batch_size=8)
OFFLINE = WandbSettings(mode="offline", project="mathsft-test")


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own W&B account and settings out of the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def step(number: int, run: str = "trial-0", seconds: float = 0.1) -> StepMetrics:
    return make_metrics(run, number, loss=2.0 / number, seconds=seconds, flop_utilization=0.5)


def score(at_step: int, num_correct: int, run: str = "trial-0", pool: str = "search") -> Score:
    return make_score(run, at_step, pool, num_correct, 20, num_failed=10, generate_seconds=1.5)


def observe(
    store: StudyStore, folder: Path, records: list[Run | StepMetrics | WorkerCall | Score], settings: WandbSettings = OFFLINE
) -> None:
    """Be one driver: write the records to the store with an observer on it."""
    observer = WandbObserver(store, StudyLayout(folder), settings)
    store.observers = [observer]
    for record in records:
        store.write(record)
    observer.close()


def evals(run: Any) -> list[tuple[int, float]]:
    return [(row["train_step"], row["eval/accuracy"]) for row in run.rows if "eval/accuracy" in row]


def our_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name.startswith("mathsft")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


@pytest.mark.slow
def test_without_a_home_its_services_log_stays_off_the_terminal(
    store: StudyStore,
    tmp_path: Path,
    read_offline_runs: Reader,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    observe(store, tmp_path, [TRIAL, step(1), replace(TRIAL, state="finished", value=0.3)])
    assert capfd.readouterr() == ("", "")
    assert len(read_offline_runs(tmp_path)) == 1
    assert "XDG_CACHE_HOME" not in os.environ, "workers and caches of ours do not hear of it"


@pytest.mark.slow
def test_a_trial_and_its_resumption_after_a_killed_driver(
    store: StudyStore, tmp_path: Path, read_offline_runs: Reader, capfd: pytest.CaptureFixture[str]
) -> None:
    call = make_worker_call("trial-0", 2, 1.0, 2.0, "search", worker="evaluator-1")
    observe(store, tmp_path, [TRIAL, step(1), step(2), step(3), call, score(2, 4)])
    ended = replace(TRIAL, state="finished", value=0.3)
    observe(store, tmp_path, [step(3, seconds=9.0), step(4), score(4, 6), ended, score(4, 5, pool="validation")])

    begun, resumed, reopened = read_offline_runs(tmp_path)
    assert {run.id for run in (begun, resumed, reopened)} == {"my-study-trial-0"}
    assert (begun.group, begun.job_type, begun.name) == ("my study", "trial", "trial-0")
    assert begun.config["training.learning_rate"] == 1e-3
    assert begun.config["training.batch_size"] == 16
    assert begun.config["model.path"] == "quickstart"
    assert begun.step_metrics["eval/*"] == begun.step_metrics["train/*"] == "train_step"

    assert [(row["train_step"], row["train/loss"]) for row in begun.rows if "train/loss" in row] == [
        (1, 2.0),
        (2, 1.0),
        (3, 2 / 3),
    ]
    assert evals(begun) == [(2, 0.2)], "scored after step 3, but belongs to step 2"
    assert begun.rows[-1]["eval/format_accuracy"] == 0.5
    assert begun.rows[-1]["eval/wrong_answer"] == 0.3
    assert begun.rows[-1]["eval/evaluator"] == "evaluator-1"
    assert begun.exit_code == 1, "the driver ended before the run did"

    assert evals(resumed) == [(4, 0.3)]
    numbers = [row["_step"] for run in (begun, resumed, reopened) for row in run.rows]
    assert numbers == [1, 2, 3, 4, 5, 6, 7], (
        "each row once and in order; the step that was trained again is not logged again"
    )
    assert (resumed.exit_code, resumed.summary["state"]) == (0, "finished")
    assert reopened.rows[0]["eval-validation/accuracy"] == 0.25, "another pool is another curve"
    assert reopened.step_metrics["eval-validation/*"] == "train_step"
    assert capfd.readouterr() == ("", ""), "W&B must leave the terminal alone"


@pytest.mark.slow
def test_runs_side_by_side_end_each_in_its_own_way(store: StudyStore, tmp_path: Path, read_offline_runs: Reader) -> None:
    final = replace(TRIAL, name="final-0123abcd", kind="final")
    failed = replace(TRIAL, name="trial-1", state="failed", reason="three deaths")
    observe(store, tmp_path, [final, TRIAL, step(1), step(1, final.name), replace(failed, state="running"), failed])
    by_name = {run.name: run for run in read_offline_runs(tmp_path)}
    assert {name: len(run.rows) for name, run in by_name.items()} == {"final-0123abcd": 1, "trial-0": 1, "trial-1": 0}
    assert by_name["final-0123abcd"].job_type == "final"
    assert (by_name["trial-1"].exit_code, by_name["trial-1"].summary["reason"]) == (1, "three deaths")


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "x" * 40])
def test_without_key_or_server_it_warns_once_and_logs_offline(
    key: str | None,
    store: StudyStore,
    tmp_path: Path,
    read_offline_runs: Reader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("mathsft.tracking.wandb.INIT_SECONDS", 2)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    online = WandbSettings(mode="online", project="mathsft-test")
    observe(store, tmp_path, [TRIAL, step(1), replace(TRIAL, name="trial-1"), step(1, "trial-1")], online)
    assert [len(run.rows) for run in read_offline_runs(tmp_path)] == [1, 1]
    (warning,) = our_warnings(caplog)
    assert "logged offline" in warning


def test_what_wandb_raises_is_logged_once_and_dropped(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no more runs\nfor you")

    monkeypatch.setattr("wandb.init", refuse)
    observe(store, tmp_path, [TRIAL, step(1), replace(TRIAL, name="trial-1"), step(1, "trial-1")])
    assert our_warnings(caplog) == ["W&B: RuntimeError: no more runs; repetitions are not shown"]
    assert len(store.metrics("trial-0")) == 1


HUNG = """
import os, psutil, signal, sys, time
from pathlib import Path
from mathsft.config.study_schema import WandbSettings
from mathsft.layout import StudyLayout
from mathsft.store.study_store import StudyStore
from mathsft.tracking.wandb import WandbObserver
from tests.build import make_experiment, make_trial
folder = Path(sys.argv[1])
store = StudyStore.open(f"sqlite:///{folder / 'study.db'}", "s")
observer = WandbObserver(store, StudyLayout(folder), WandbSettings(), close_seconds=0.5)
store.observers = [observer]
store.write(make_trial())
def services():
    return [child for child in psutil.Process().children() if "wandb-core" in child.name()]
while not list(folder.glob("wandb/offline-run-*/*.wandb")):
    time.sleep(0.01)
service, = services()
print(service.pid, flush=True)
service.send_signal(signal.SIGSTOP)
observer.close()
"""


@pytest.mark.slow
def test_a_hung_service_neither_holds_up_the_end_nor_outlives_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HUNG, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    service = int(done.stdout)
    if psutil.pid_exists(service):
        os.kill(service, signal.SIGKILL)
        pytest.fail("W&B's service outlived the driver")
