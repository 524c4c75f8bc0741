"""What a user meets on the command line: help at once, and one clear line for every mistake."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mathsft import cli, packages
from mathsft.accounting.measure import NotMeasuredError
from mathsft.commands import predict
from mathsft.commands.opening import open_console
from mathsft.costs import Speeds

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own with copies of the project's settings, and no CUDA device."""
    for name in ("studies", "experiments"):
        (tmp_path / name).mkdir()
        for path in (ROOT / name).glob("*.yaml"):
            shutil.copy(path, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("script", ["run_study.py", "run_final.py"])
def test_help_imports_nothing_heavy(script: str) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "vllm", "optuna", "pydantic", "transformers", "sqlalchemy", "numpy", "rich", "yaml"}
    assert "--set KEY=VALUE" in done.stdout


def test_the_first_line_needs_nothing_that_takes_long_to_import(workplace: Path) -> None:
    """The mistake ends the command where the rest would be imported."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "run_study.py"), "--set", "training.batch_size=none"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("No CUDA device: the embedded quickstart")
    heavy = {"optuna", "sqlalchemy", "sklearn", "scipy", "statsmodels", "transformers", "wandb", "numpy", "torch", "vllm"}
    assert not heavy & {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}


def test_no_line_moves_where_it_could_not_be_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in many CI systems, whose logs are files
    assert not open_console().is_interactive


def test_a_study_that_is_named_has_a_first_line_too(
    workplace: Path, measured: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", "--study", "quickstart", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("Study quickstart, experiment quickstart\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["study", "--set", "training.lerning_rate=1"], r"unknown.*did you mean training\.learning_rate"),
        (["study", "--set", "training.learning_rate=1e-4"], r"training\.learning_rate: the study searches it"),
        (["study", "--set", "training.weight_decay=-1"], r"training\.weight_decay.*-1"),
        (["study", "--set", "training.weight_decay=much"], r"training\.weight_decay.*'much'"),
        (["study", "--set", "nonsense"], r"nonsense"),
        (["study", "--study", "quickstrat"], r"did you mean quickstart"),
        (["study", "--study", "missing.yaml"], r"missing\.yaml"),
        (["study", "--set", "model.path=nowhere"], r"model\.path.*nowhere"),
        (["study", "--set", "model.path=."], r"config\.json"),
        (["study", "--set", "data.source=nothing.jsonl"], r"nothing\.jsonl"),
        (["study", "--set", "data.source=empty.jsonl"], r"empty\.jsonl"),
        (["study", "--set", "data.source=no_gold.jsonl"], r"no_gold\.jsonl:1"),
        (
            ["study", "--set", "data.source=twice.jsonl"],
            r"twice\.jsonl: .*'2' in row 1 and '3' in row 2.*contradictions",
        ),
        (["study", "--set", "data.source=experiments"], r"'experiments' has no file that ends in"),
        (["study", "--set", "prompt.template=unknown"], r"unknown"),
        (["study", "--set", "sampler.name=BestSampler"], r"sampler\.name.*BestSampler.*TPESampler"),
        (["study", "--set", "pruner.arguments.chance=300"], r"pruner\.arguments.*PredictedEndPruner"),
        (["study", "--set", "pruner.arguments.sharpness=1"], r"pruner\.arguments.*sharpness"),
        (["final", "--from-best"], r"no winner yet; run first: \S*python\S* -m mathsft study$"),
        (
            ["final", "--from-best", "--set", "seed=3", "--study", "smollm2-135m-gsm8k"],
            r"-m mathsft study --study smollm2-135m-gsm8k --set seed=3$",
        ),
        (["final", "--horizon", "adjust"], r"--horizon adjust .*use it with --from-best$"),
        (["study", "--set", "horizon.num_examples=1536"], r"horizon\.num_examples = 1536 must be below trial\.num"),
        (["final", "--learning-rate", "fast"], r"training\.learning_rate.*'fast'"),
        (["final", "--batch-size", "0"], r"training\.batch_size.*0"),
        (["report"], r"run first: \S*python\S* -m mathsft study$"),
        (["dashboard"], r"there is no study with trials in \S+ yet; start with: \S*python\S* -m mathsft study$"),
        (["dashboard", "nowhere"], r"nowhere: there is no study with results"),
    ],
)
def test_a_mistake_is_one_clear_line(
    argv: list[str], message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "empty.jsonl").write_text("")
    (workplace / "no_gold.jsonl").write_text('{"problem": "What is 1+1?", "solution": "It is two."}\n')
    row = '{"problem": "What is 1+1?", "solution": "Count.", "answer": 2}\n'
    (workplace / "twice.jsonl").write_text(row + row.replace("2", "3"))
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1, error


def test_a_mistake_in_a_file_names_its_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workplace / "experiments" / "quickstart.yaml"
    edit(path, "warmup", "warmpu") if "warmup" in path.read_text() else edit(path, "batch_size", "batch_sise")
    assert cli.main(["study"]) == 2
    assert re.search(r"quickstart\.yaml:\d+: training\.\w+: .*did you mean", capsys.readouterr().err)


@pytest.mark.parametrize("argv", [["--trials", "0"], ["--trials", "many"], ["--hours", "-1"], ["--hours", "nan"]])
def test_bad_numbers_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["study", *argv])
    assert ended.value.code == 2
    assert argv[1] in capsys.readouterr().err


def test_without_the_install_one_line_says_how(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(packages, "NEEDED", ("pydantic", "not_installed_at_all"))
    assert cli.main(["study"]) == 2
    assert re.search(r"^python -m mathsft study: .*not_installed_at_all is missing.*\n$", capsys.readouterr().err)


def test_the_dry_run_starts_nothing(workplace: Path, capsys: pytest.CaptureFixture[str], measured: None) -> None:
    assert cli.main(["study", "--dry-run", "--trials", "7"]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # however the table's lines are broken
    assert "nothing was started" in printed
    assert re.search(r"trials 7, each 1,536 examples", printed)
    assert re.search(r"time about \d+ minutes: 24\.0 s to start, [\d.]+ s for trials, [\d.]+ s to confirm", printed)
    assert re.search(r"a measurement just now: training takes 24\.0 ms per step plus 5\.0 ms per example", printed)
    assert re.search(r"final run about \d+ minutes; up to \d+ MB", printed)
    assert not (workplace / "studies" / "quickstart").exists()


def test_a_dry_run_that_cannot_measure_says_that_it_guesses(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: object) -> Speeds:
        raise NotMeasuredError("OutOfMemoryError: CUDA out of memory")

    monkeypatch.setattr(predict, "measured_speeds", fail)
    assert cli.main(["study", "--dry-run"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"time about \d+ minutes", printed)
    assert (
        "a guess from the model's size and an assumed speed: measuring failed (OutOfMemoryError: CUDA out of memory)"
        in printed
    )


def test_config_prints_values_with_their_source_and_the_schema(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--set", "training.weight_decay=0.25"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"training\.weight_decay\W+0\.25\W+--set", printed)
    assert re.search(r"training\.learning_rate\W+0\.001\W+\S*experiments/quickstart\.yaml:\d+", printed)
    assert re.search(r"^Workers on this machine, study: .* for training, .* for scoring", printed, re.MULTILINE)
    assert re.search(r"^Workers on this machine, final run: .* for scoring", printed, re.MULTILINE)
    assert cli.main(["config", "--schema"]) == 0
    assert "AdamW's peak learning rate." in capsys.readouterr().out


def test_the_real_experiment_loads(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--study", "qwen2.5-math-1.5b"]) == 0
    assert "Qwen/Qwen2.5-Math-1.5B" in capsys.readouterr().out


def test_a_python_without_docstrings_is_refused_in_one_line(workplace: Path) -> None:
    command = [sys.executable, "-OO", str(ROOT / "run_study.py"), "--dry-run"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"run_study\.py: PYTHONOPTIMIZE=2 .* unset it\n", done.stderr)
