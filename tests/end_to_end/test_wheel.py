"""The wheel, installed: in an empty folder it runs a study and its final run, by the strict format rule and with several
responses a problem, which count alike from Optuna to the report. One study for both questions: engines take long to start.
"""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import optuna
import pytest

from mathsft.layout import StudyLayout
from mathsft.records import Response, Score
from mathsft.store.study_store import StudyStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
NUM_SAMPLES = 3
SETTINGS = {
    "evaluation.format_rule": "strict",
    "evaluation.num_samples": NUM_SAMPLES,
    "evaluation.temperature": 0.7,
    "evaluation.max_tokens": 48,
    "trial.num_examples": 512,
    "trial.eval_points": "[0.5,1]",
    "selection.round_problems": "[10,10,20]",
    "data.pools.search": 20,
    "data.pools.confirm": 40,
    "data.pools.validation": 20,
    "data.pools.test": 20,
    "final.num_examples": 512,
    "final.eval_points": "[0.5,1]",
}
OPTIONS = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]


@dataclass(frozen=True)
class Installed:
    """An environment with mathsft from its wheel, and all else from the environment that runs the tests."""

    environment: Path
    package: Path

    def run(self, *command: str, cwd: Path) -> str:
        """Run one of the environment's programs, found on the PATH; return what it printed."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTHONHOME"))}
        env["PATH"] = f"{self.environment / 'bin'}:{env['PATH']}"
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def files(self) -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in self.package.rglob("*") if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    site = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    # Its .pth files are not read there, so that the editable install of mathsft, which is one, stays behind.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(environment, site / "mathsft")


def test_the_package_that_is_imported_is_the_wheels(installed: Installed, tmp_path: Path) -> None:
    origin = installed.run("python", "-c", "import mathsft; print(mathsft.__file__)", cwd=tmp_path)
    assert Path(origin.strip()) == installed.package / "__init__.py"
    path = installed.run("python", "-c", "import sys; print(*sys.path, sep='\\n')", cwd=tmp_path).splitlines()
    assert str(ROOT) not in path


def test_the_wheel_holds_all_that_is_shipped(installed: Installed) -> None:
    def shipped(folder: Path, pattern: str) -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}

    for name in ("tasks/quickstart/base_model", "prompts/templates"):
        assert shipped(installed.package / name, "**/*") == shipped(ROOT / "mathsft" / name, "**/*")
    for name in ("studies", "experiments"):
        assert shipped(installed.package / "shipped" / name, "**/*") == shipped(ROOT / name, "*.yaml")


@dataclass(frozen=True)
class Finished:
    """What a study and its final run left, and printed."""

    folder: StudyLayout
    study: str
    final: str

    @property
    def workplace(self) -> Path:
        return self.folder.root.parents[1]


@pytest.fixture(scope="module")
def finished(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    workplace, before = tmp_path_factory.mktemp("empty"), installed.files()
    study = installed.run("mathsft", "study", "--trials", "2", *OPTIONS, cwd=workplace)
    [following] = [shlex.split(line) for line in study.splitlines() if line.startswith("  mathsft final")]
    assert following == ["mathsft", "final", "--from-best", *OPTIONS]
    final = installed.run(*following, cwd=workplace)
    assert installed.files() == before
    return Finished(StudyLayout(workplace / "studies" / "quickstart"), study, final)


def test_commands_name_each_other_as_the_wheels_program(finished: Finished, installed: Installed) -> None:
    workplace = finished.workplace
    assert f"Report: {workplace}/studies/quickstart/report.html" in finished.study
    assert "the model solves" in finished.final
    shown = installed.run("mathsft", "show", cwd=workplace)
    assert "quickstart" in shown
    [following] = [shlex.split(line.removeprefix("Next: ")) for line in shown.splitlines() if line.startswith("Next: ")]
    assert following == ["mathsft", "show", "quickstart"]
    assert "Final run: final-" in installed.run(*following, cwd=workplace)
    report = finished.folder.report_markdown.read_text()
    assert "`mathsft show quickstart final --responses " in report
    assert {path.name for path in workplace.iterdir()} == {"studies"}


def counts_strictly(response: Response) -> bool:
    """Tell by the published rule, from the text: one space between the tags, and the verdict on the answer."""
    loose = re.search(r"</think>(\s*)<answer>", response.text)
    return response.verdict.category == "correct" and loose is not None and loose[1] == " "


def share(responses: Iterable[Response]) -> Fraction:
    counted = [counts_strictly(response) for response in responses]
    return Fraction(sum(counted), len(counted))


def test_optuna_the_promotion_and_the_report_count_alike(finished: Finished) -> None:
    folder = finished.folder
    store = StudyStore.open(folder.database_url, "quickstart")
    report = folder.report_markdown.read_text()
    storage = optuna.storages.RDBStorage(folder.database_url)
    trials = optuna.load_study(study_name="quickstart", storage=storage).trials
    promotion = store.promotion()
    assert promotion is not None

    scores: list[Score] = store.scores()
    assert any(score.counts["correct"] for score in scores), "nothing was learned: nothing is compared"
    for score in scores:
        responses = store.responses(score)
        assert len(responses) == NUM_SAMPLES * score.num_problems
        assert score.accuracy == pytest.approx(float(share(responses)))
    for trial in trials:
        last = store.scores(f"trial-{trial.number}", "search")[-1]
        assert trial.value == pytest.approx(float(share(store.responses(last))))
        low, high = trial.user_attrs["interval_low"], trial.user_attrs["interval_high"]
        assert low <= trial.value <= high and high - low > 0
        with next((folder.run(last.run)).glob("responses-search.csv")).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert sum(row["category"] == "correct" for row in rows) == last.counts["correct"]
        assert f"{last.counts['correct']:,} of {20 * NUM_SAMPLES}" in report
    for finalist in promotion.finalists:
        fresh = [score for score in scores if score.run == finalist.run and score.pool.startswith("confirm:")]
        assert finalist.num_correct == sum(score.counts["correct"] for score in fresh)
        assert finalist.num_responses == NUM_SAMPLES * sum(score.num_problems for score in fresh)
        assert f"{finalist.num_correct} of {finalist.num_responses}" in finished.study
    winner = next(finalist for finalist in promotion.finalists if finalist.run == promotion.run)
    assert promotion.evidence["accuracy"] == pytest.approx(winner.num_correct / winner.num_responses)

    [final] = store.runs("final")
    tested = store.scores(final.name, "test")
    assert final.state == "finished" and len(tested) > 1
    assert f"{tested[-1].accuracy:.1%}" in finished.final
    num_failed = sum(score.counts["format_failure"] for score in store.scores(final.name, "validation"))
    assert ("No response failed its format." in report) == (num_failed == 0)
    store.close()


def test_show_tells_the_same(finished: Finished, installed: Installed, tmp_path: Path) -> None:
    command = ["mathsft", "show", str(finished.folder.root), "final", "--pool", "test", "--json"]
    shown = json.loads(installed.run(*command, cwd=tmp_path))
    store = StudyStore.open(finished.folder.database_url, "quickstart")
    [final] = store.runs("final")
    for analysed, score in zip(shown["checkpoints"], store.scores(final.name, "test"), strict=True):
        assert analysed["categories"]["correct"]["num"] == score.counts["correct"]
    store.close()
