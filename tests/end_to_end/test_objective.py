"""A study by the strict format rule with several responses a problem: one metric, from Optuna to the report."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import optuna
import pytest

from mathsft.layout import StudyLayout
from mathsft.records import Response, Score
from mathsft.store.book import Book

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
    "data.pools.watch": 20,
    "data.pools.test": 20,
    "final.num_examples": 512,
    "final.eval_points": "[0.5,1]",
}
OPTIONS = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]


def run(workplace: Path, script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / script), *arguments, *OPTIONS]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyLayout, str, str]:
    workplace = tmp_path_factory.mktemp("workplace")
    for name in ("studies", "experiments"):
        (workplace / name).mkdir()
        shutil.copy(ROOT / name / "quickstart.yaml", workplace / name)
    study, final = run(workplace, "run_study.py", "--trials", "2"), run(workplace, "run_final.py", "--from-best")
    return StudyLayout(workplace / "studies" / "quickstart"), study, final


def counts_strictly(response: Response) -> bool:
    """Tell by the published rule, from the text: one space between the tags, and the verdict on the answer."""
    loose = re.search(r"</think>(\s*)<answer>", response.text)
    return response.verdict.category == "correct" and loose is not None and loose[1] == " "


def share(responses: Iterable[Response]) -> Fraction:
    counted = [counts_strictly(response) for response in responses]
    return Fraction(sum(counted), len(counted))


def test_optuna_the_promotion_and_the_report_count_alike(outputs: tuple[StudyLayout, str, str]) -> None:
    folder, printed, final_printed = outputs
    book = Book.open(folder.database_url, "quickstart")
    report = folder.report_markdown.read_text()
    storage = optuna.storages.RDBStorage(folder.database_url)
    trials = optuna.load_study(study_name="quickstart", storage=storage).trials
    promotion = book.promotion()
    assert promotion is not None

    scores: list[Score] = book.scores()
    assert any(score.counts["correct"] for score in scores), "nothing was learned: nothing is compared"
    for score in scores:
        responses = book.responses(score)
        assert len(responses) == NUM_SAMPLES * score.num_problems
        assert score.accuracy == pytest.approx(float(share(responses)))
    for trial in trials:
        last = book.scores(f"trial-{trial.number}", "search")[-1]
        assert trial.value == pytest.approx(float(share(book.responses(last))))
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
        assert f"{finalist.num_correct} of {finalist.num_responses}" in printed
    winner = next(finalist for finalist in promotion.finalists if finalist.run == promotion.run)
    assert promotion.evidence["accuracy"] == pytest.approx(winner.num_correct / winner.num_responses)

    [final] = book.runs("final")
    tested = book.scores(final.name, "test")
    assert final.state == "finished" and len(tested) > 1
    assert f"{tested[-1].accuracy:.1%}" in final_printed
    num_failed = sum(score.counts["format_failure"] for score in book.scores(final.name, "watch"))
    assert ("No response failed its format." in report) == (num_failed == 0)
    book.close()


def test_show_tells_the_same(outputs: tuple[StudyLayout, str, str]) -> None:
    folder, _, _ = outputs
    command = [sys.executable, "-m", "mathsft", "show", str(folder.root), "final", "--pool", "test", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    book = Book.open(folder.database_url, "quickstart")
    [final] = book.runs("final")
    for analysed, score in zip(json.loads(done.stdout)["checkpoints"], book.scores(final.name, "test"), strict=True):
        assert analysed["categories"]["correct"]["num"] == score.counts["correct"]
    book.close()
