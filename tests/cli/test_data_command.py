"""`mathsft data` shows pools, findings with examples, lengths and speed, and says at what a study would stop."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mathsft import cli
from mathsft.accounting.measure import NotMeasuredError
from mathsft.commands import data
from mathsft.costs import Speeds
from mathsft.errors import UserError
from mathsft.records import Problem
from mathsft.reporting.data_page import Bin, summarised
from tests.build import SPEEDS
from tests.cli.test_data import FAULTS, ROWS, flags, settings


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds of two processes: lengths are the numbers of characters, and the speed is known."""

    async def lengths(trainer: object, problems: Sequence[Problem]) -> list[int]:
        return [len(row.problem) + len(row.solution) for row in problems]

    async def speeds(*arguments: object) -> Speeds:
        return SPEEDS

    monkeypatch.setattr(data, "measured_lengths", lengths)
    monkeypatch.setattr(data, "measured_speeds", speeds)


LONG = {"problem": "Long?", "solution": "word " * 60, "answer": "8"}
SOLVED = {"problem": "Solved?", "solution": r"It is \boxed{7}.", "answer": "8"}


def test_findings_are_shown_with_examples_and_counted(
    tmp_path: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(settings(tmp_path, [*ROWS, *FAULTS, LONG, SOLVED]))
    assert cli.main(["data", "quickstart", *given, "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    found = {finding["kind"]: finding for finding in page["quality"]["findings"]}
    assert {kind: finding["count"] for kind, finding in found.items()} == {
        "unreadable": 1,
        "frequent": 1,
        "variant": 1,
        "contradictory": 1,
        "in_test": 19,
        "wrong": 1,
        "too_long": 1,
    }
    assert found["wrong"]["examples"] == ["'Solved?': the solution ends with '7', the gold answer is '8'"]
    assert found["too_long"]["examples"] == ["304 tokens: Long?"]
    lengths, num_rows = page["lengths"], page["num_train_rows"]
    assert sum(one["num_examples"] for one in lengths["bins"]) == lengths["num_examples"] == num_rows
    assert page["num_problems"] == {"search": 25, "confirm": 25, "validation": 25, "test": 21, "train": num_rows}
    assert page["speed"]["pass_seconds"] == pytest.approx(
        (num_rows - 1) * (SPEEDS.example_seconds + SPEEDS.step_seconds / 32)
    )
    assert page["stops"] == []

    assert cli.main(["data", "quickstart", *given]) == 0
    printed = capsys.readouterr().out
    for text in ("- 304 tokens: Long?", "pool", "Training: about ", "solutions left out of train", "longest 304; limit 256"):
        assert text in printed


def test_what_would_stop_a_study_is_said_and_is_the_exit_code(
    tmp_path: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(tmp_path, ROWS + FAULTS)[:-2]
    assert cli.main(["data", "quickstart", *flags(given)]) == 2
    stops = [line for line in capsys.readouterr().out.splitlines() if line.startswith("A study would stop: ")]
    assert [line.partition(" is error")[0] for line in stops] == [
        "A study would stop: data.unreadable",
        "A study would stop: data.contradictions",
    ]


def test_without_the_model_or_a_measurement_the_rest_is_shown(
    tmp_path: Path, known: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(settings(tmp_path, ROWS))
    assert cli.main(["data", "quickstart", *given, "--set", "model.path=org/absent", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["lengths"], page["speed"]) == (None, None)
    assert page["notes"] == ["The model org/absent is not on this machine, so lengths and speed are not known."]

    async def fails(*arguments: object) -> Speeds:
        raise NotMeasuredError("no memory")

    monkeypatch.setattr(data, "measured_speeds", fails)
    assert cli.main(["data", "quickstart", *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["speed"]["basis"].endswith("because measuring failed: no memory")


def test_a_target_that_cannot_be_trained_on_is_said_with_the_rest(
    tmp_path: Path, known: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuses(*arguments: object) -> list[int]:
        raise UserError("the target of the problem 'p' is read as '1', not as its gold answer '2'")

    monkeypatch.setattr(data, "measured_lengths", refuses)
    assert cli.main(["data", "quickstart", *flags(settings(tmp_path, ROWS))]) == 2
    printed = capsys.readouterr().out
    assert "A study would stop: the target of the problem 'p' is read as '1', not as its gold answer '2'" in printed
    assert "problems removed from all other pools" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such"], "EXPERIMENT: no experiment named 'no-such'"),
        (["quickstart", "--set", "num_trials=3"], "num_trials: a setting of a study"),
        (["quickstart", "--set", "data.source=/no/such.jsonl"], "there is no such file"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.slow
def test_lengths_and_speed_are_those_of_the_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "quickstart", *flags(settings(tmp_path, ROWS)), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["speed"]["basis"] == "measured in a few steps just now"
    assert page["speed"]["tokens_per_second"] > 0
    # 'User: What is 117 + 1? … </answer>' and its end: the texts of all rows are alike but for the digits.
    assert 20 < page["lengths"]["mean_tokens"] <= page["lengths"]["longest_tokens"] < 80


def test_bins_end_at_the_limit_and_one_more_holds_the_rest() -> None:
    assert summarised([3, 5, 99, 100, 101, 900], 100).bins[-2:] == (Bin(99, 101, 2), Bin(101, 901, 2))
    assert summarised([7, 7], 100).bins[-1] == Bin(7, 8, 2)
    for lengths, limit in (([1], 2), (list(range(1, 57)), 40), ([41], 40)):
        assert sum(one.num_examples for one in summarised(lengths, limit).bins) == len(lengths)
