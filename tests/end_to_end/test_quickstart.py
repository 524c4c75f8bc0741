"""The whole thing as a user runs it: scripts as processes, the real engine, interruptions, the dashboard, the report."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from rich.console import Console

from bench.faults import DRIVER, EVALUATOR, STUDY, TRAINER, Result, Workplace, commands, measure
from mathsft.cli import WITHOUT_READER
from mathsft.layout import StudyLayout
from mathsft.records import Score
from mathsft.store.study_store import StudyStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
NUM_KILLS, SEED, NUM_TRIALS = 3, 1287, 3
"""With this seed the driver and the trainer die in the study, the evaluator in the final run."""
STUDY_COMMAND, _ = commands(NUM_TRIALS)


@dataclass(frozen=True)
class Finished:
    """A study and its final run, both of which were killed and finished, and what they printed undisturbed."""

    kills: Result
    layout: StudyLayout
    study_output: str
    errors: str
    """On stderr, of the undisturbed study and its final run."""

    @property
    def root(self) -> Path:
        return self.layout.root.parents[1]

    def store(self) -> StudyStore:
        return StudyStore.open(self.layout.database_url, STUDY)


@contextmanager
def started(argv: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(ROOT / argv[0]), *argv[1:]]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield process
        process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"the process ended before {pattern!r}:\n{seen}")


def end(process: subprocess.Popen[str], with_signal: int) -> tuple[int, str]:
    """Send a signal; return exit code and remaining output once the process and all it started are gone."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(with_signal)
    rest, _ = process.communicate(timeout=300)
    _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive
    return process.returncode, rest


def run(argv: list[str], cwd: Path) -> str:
    done = subprocess.run([sys.executable, str(ROOT / argv[0]), *argv[1:]], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    scratch = tmp_path_factory.mktemp("scratch")
    kills = measure(NUM_KILLS, SEED, NUM_TRIALS, scratch, Console(width=140))
    undisturbed, killed = scratch / "undisturbed", scratch / "1"
    return Finished(
        kills,
        StudyLayout(killed / "studies" / STUDY),
        (undisturbed / "run_study.out").read_text().replace(str(undisturbed), str(killed)),
        "".join((undisturbed / f"{name}.err").read_text() for name in ("run_study", "run_final")),
    )


def test_kills_change_nothing(finished: Finished) -> None:
    result = json.loads(finished.kills.line())
    victims = result.pop("victims")
    assert {name for name, number in victims.items() if number} == {DRIVER, TRAINER, EVALUATOR}, finished.kills
    assert result.pop("kills") == NUM_KILLS
    assert set(result.values()) == {0}, finished.kills


def test_ctrl_c_ends_a_study_in_order_and_a_second_driver_is_refused(tmp_path: Path) -> None:
    place = Workplace(tmp_path, 0, NUM_TRIALS)
    with started(STUDY_COMMAND, tmp_path) as process:
        read_until(process, r"trial-0 .*started")
        with started(STUDY_COMMAND, tmp_path) as second:
            assert second.wait(300) == 2
            assert second.stdout is not None
            assert f"process {process.pid} is already using it" in second.stdout.read()
        code, rest = end(process, signal.SIGINT)
    assert code == 130
    assert re.search(rf"Go on with: \S+ \S*run_study\.py --trials {NUM_TRIALS}", rest)
    # What a killed driver leaves, too, and the next one goes on with.
    [trial] = StudyStore.open(place.layout.database_url, STUDY).runs("trial")
    study = optuna.load_study(study_name=STUDY, storage=place.layout.database_url)
    assert (trial.state, [each.state for each in study.trials]) == ("running", [TrialState.RUNNING])


def test_a_study_goes_on_when_whoever_reads_its_output_stops(finished: Finished) -> None:
    """A pager that is quit after the first line; the study is at its end here, which it shows to nobody."""
    pipe = subprocess.PIPE
    command = [sys.executable, str(ROOT / STUDY_COMMAND[0]), *STUDY_COMMAND[1:]]
    with subprocess.Popen(command, cwd=finished.root, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("No CUDA device")
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors == f"run_study.py: {WITHOUT_READER}\n"


def test_a_killed_study_ends_with_exactly_its_trials_each_scored_once(finished: Finished) -> None:
    store = finished.store()
    trials = store.runs("trial")
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert all(trial.state in ("finished", "pruned", "diverged") for trial in trials)
    study = optuna.load_study(study_name="quickstart", storage=finished.layout.database_url)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    for trial, ours in zip(study.trials, trials, strict=True):
        assert {f"training.{name}": value for name, value in trial.params.items()} == ours.overrides
        assert trial.value == ours.value
        scores = store.scores(ours.name, "search")
        assert trial.intermediate_values == {index: score.accuracy for index, score in enumerate(scores)}
        steps = [metrics.step for metrics in store.metrics(ours.name)]
        assert steps == list(range(1, len(steps) + 1))


def test_scores_rest_on_the_responses_in_the_book(finished: Finished) -> None:
    store = finished.store()
    scores = store.scores()
    assert {score.pool.partition(":")[0] for score in scores} == {"search", "confirm", "validation", "test"}
    for score in scores:
        responses = store.responses(score)
        assert len({response.problem_id for response in responses}) == score.num_problems
        assert score.num_problems == 60 or score.pool.startswith("confirm:")
        categories = [response.verdict.category for response in responses]
        assert {category: categories.count(category) for category in score.counts} == score.counts
        checkpoint = store.checkpoint(score.run, score.step)
        assert checkpoint is not None
        assert checkpoint.fingerprint == score.fingerprint


def test_training_teaches_the_format(finished: Finished) -> None:
    def format_accuracy(scores: list[Score]) -> float:
        return scores[-1].format_accuracy

    store = finished.store()
    [final] = store.runs("final")
    first, *_, last = store.scores(final.name, "validation")
    assert (first.step, first.format_accuracy < 0.2) == (0, True)
    assert last.format_accuracy > 0.5
    assert {score.step for score in store.scores(final.name, "test")} >= {0, last.step}


def test_only_wanted_weights_stay(finished: Finished) -> None:
    store = finished.store()
    promotion = store.promotion()
    [final] = store.runs("final")
    assert promotion is not None
    kept = {
        path.parent.relative_to(finished.layout.root / "runs").as_posix()
        for path in finished.layout.root.rglob("*.safetensors")
    }
    last_trial, *_ = reversed(store.checkpoints(promotion.run))
    last_final, *_ = reversed(store.checkpoints(final.name))
    assert f"{promotion.run}/step-{last_trial.step:06d}" in kept
    assert f"{final.name}/step-{last_final.step:06d}" in kept
    assert len(kept) <= 3  # and the final run's best, where that is another


def test_the_commands_say_what_to_do_next_and_the_report_is_there(finished: Finished) -> None:
    assert finished.errors == ""
    assert finished.study_output.startswith("No CUDA device: the embedded quickstart")
    assert "--study qwen2.5-math-1.5b" in finished.study_output.splitlines()[0]
    # As the user has to type it: without a path where the shell finds this very interpreter.
    assert re.search(rf"(^|\s)({sys.executable}|python) {ROOT}/run_final.py --from-best", finished.study_output)
    assert re.search(r"-m mathsft dashboard quickstart$", finished.study_output, re.MULTILINE)
    figures = {path.stem for path in finished.layout.root.glob("*.svg")}
    assert {name.partition("-final-")[0] for name in figures} >= {"study", "ledger", "accuracy", "loss", "learning-rate"}
    assert finished.layout.report_page.read_text().count("<svg") == 2 * len(figures), "for wide and for narrow screens"
    report = finished.layout.report_markdown.read_text()
    for heading in (
        "Base model and final run",
        "Format failures",
        "Response lengths",
        "Time and memory",
        "Settings of all runs",
    ):
        assert heading in report


def test_a_finished_study_shows_its_end_again_and_trains_nothing(finished: Finished) -> None:
    before = finished.store().metrics("trial-0")
    output = run(STUDY_COMMAND, finished.root)
    assert "started" not in output
    assert output.splitlines()[-3:] == finished.study_output.splitlines()[-3:]
    assert finished.store().metrics("trial-0") == before


def test_the_promoted_trial_replays_to_the_bit_and_its_records_stay(finished: Finished) -> None:
    """In a locale that knows ASCII only, too: torch and vLLM read files of theirs in UTF-8 when a worker imports them."""
    before = finished.store().metrics("trial-0")
    command = [sys.executable, "-m", "mathsft", "replay", "quickstart", "best"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=finished.root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything must agree to the bit" in " ".join(done.stdout.split()), "what it promises on a CPU"
    assert "agrees to the bit: " in done.stdout
    assert finished.store().metrics("trial-0") == before
    assert not list(finished.layout.root.glob("replay-*"))


def test_changed_settings_are_refused_and_named(finished: Finished) -> None:
    command = [sys.executable, str(ROOT / STUDY_COMMAND[0]), *STUDY_COMMAND[1:], "--set", "training.weight_decay=0.5"]
    done = subprocess.run(command, cwd=finished.root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "training.weight_decay: 0.0 -> 0.5" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wandb_has_one_offline_run_each(finished: Finished) -> None:
    runs = {path.stem.removeprefix("run-quickstart-") for path in finished.layout.root.glob("wandb/offline-run-*/*.wandb")}
    names = {run.name for run in finished.store().runs()}
    assert runs == names


def test_the_dashboard_shows_the_trials(finished: Finished) -> None:
    command = [sys.executable, "-m", "mathsft", "dashboard", str(finished.layout.root)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as dashboard:
        try:
            shown = re.search(r"http://127\.0\.0\.1:\d+/", read_until(dashboard, "Ctrl-C"))
            assert shown is not None

            def get(path: str) -> Any:
                with urllib.request.urlopen(f"{shown[0]}api/{path}", timeout=60) as answer:
                    return json.load(answer)

            [summary] = get("studies")["study_summaries"]
            detail = get(f"studies/{summary['study_id']}")
        finally:
            dashboard.kill()
    assert summary["study_name"] == "quickstart"
    trials = detail["trials"]
    assert [trial["state"] for trial in trials] == ["Complete"] * 3
    assert all(len(trial["intermediate_values"]) == 4 for trial in trials)
    assert all({"interval_low", "format_accuracy"} <= {attr["key"] for attr in trial["user_attrs"]} for trial in trials)
    assert all(trial["note"]["body"].startswith("## trial-") for trial in trials)
    assert all("Gold answer:" in trial["note"]["body"] and "Base model: " in trial["note"]["body"] for trial in trials)
    assert detail["note"]["body"].startswith("## quickstart") and len(detail["plotly_graph_objects"]) == 1
    assert all(len(trial["artifacts"]) == 1 for trial in trials)
