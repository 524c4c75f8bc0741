"""The verdict for programs: of any two checkpoints, and of a study."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from mathsft.cli import main
from mathsft.config.study_schema import Choices, FloatRange, SearchRange, SelectionSettings
from mathsft.errors import OK, USER_ERROR
from mathsft.runs.contest import Rule
from mathsft.runs.results import recorded_results
from mathsft.store.study_store import StudyStore
from mathsft.study.decide import Confirm, decide
from tests.build import make_experiment, make_final, make_response, make_trial, score_of
from tools.make_verdict_schema import SCHEMA, verdict_schema

RATE, SIZE = "training.learning_rate", "training.batch_size"
SPACE: dict[str, SearchRange] = {
    RATE: FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    SIZE: Choices(type="categorical", choices=(8, 16, 32)),
}
SELECTION = SelectionSettings(num_smoothed=2, num_raw=1, round_trials=(3, 2), round_problems=(40, 60))


def write(store: StudyStore, run: str, step: int, pool: str, solved: Sequence[bool], first: int = 0) -> None:
    responses = [
        make_response(f"{pool.partition(':')[0]}-{first + place:04}", "correct" if right else "wrong_answer")
        for place, right in enumerate(solved)
    ]
    store.write(score_of(responses, run, step, pool), responses)


def new_store(name: str) -> StudyStore:
    folder = Path("studies") / name
    folder.mkdir(parents=True)
    return StudyStore.open(f"sqlite:///{folder / 'study.db'}", name)


@pytest.fixture
def two_studies() -> None:
    """A study with a trial, and one with a final run of another recipe; 100 search and 200 test problems are common."""
    a, b = new_store("a"), new_store("b")
    a.write(make_trial(0, value=0.5))
    write(a, "trial-0", 4, "search", [True] * 50 + [False] * 50)
    longer = make_experiment().model_copy(
        update={"evaluation": make_experiment().evaluation.model_copy(update={"max_tokens": 9})}
    )
    b.write(make_final(value=0.5, experiment=longer))
    write(b, "final-x", 0, "search", [False] * 100)
    for step, num_right in ((0, 20), (2, 90), (4, 80)):
        write(b, "final-x", step, "validation", [True] * num_right + [False] * (100 - num_right))
    write(b, "final-x", 2, "search", [True] * 40 + [False] * 5 + [True] * 55)
    for run, store, steps in (("trial-0", a, (4,)), ("final-x", b, (0, 2))):
        for step in steps:
            solved = [place % 10 < (5 if run == "trial-0" else step) or place in (19, 29, 39) for place in range(200)]
            write(store, run, step, "test", solved)
    a.close()
    b.close()


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the verdict that a program gets; it follows the schema."""
    assert main(("compare", *arguments, "--json")) == OK
    verdict: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(verdict, json.loads(SCHEMA.read_text()))
    return verdict


@pytest.mark.usefixtures("two_studies")
def test_two_runs_of_two_studies_are_compared_on_the_test_problems_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    worse = compared(capsys, "a/0", "b/final")
    assert (worse["first"]["run"], worse["second"]["run"], worse["second"]["step"]) == ("trial-0", "final-x", 2)
    assert (worse["pools"], worse["num_problems"], worse["num_gained"], worse["num_lost"]) == (["test"], 200, 0, 60)
    assert worse["decision"] == "worse" and worse["more_problems"] == 0 and worse["difference"] == pytest.approx(-0.3)
    assert worse["p_value"] == pytest.approx(mcnemar([[0, 0], [60, 0]], exact=True).pvalue)
    assert worse["high"] < -worse["noise_floor"] < 0
    assert worse["cautions"] == ["the evaluation differs: evaluation.max_tokens: 1024 -> 9"]
    better = compared(capsys, "b/final@2", "a/0")
    assert better["decision"] == "better" and better["difference"] == -worse["difference"]
    assert "a/trial-0@4 is better than b/final-x@2: +30.0 points" in better["sentence"]
    assert compared(capsys, "a/0", "b/final@0", "--pool", "search")["num_problems"] == 100


@pytest.mark.usefixtures("two_studies")
def test_what_is_not_proven_names_the_problems_that_would_prove_it(capsys: pytest.CaptureFixture[str]) -> None:
    store = StudyStore.open("sqlite:///studies/a/study.db", "a")
    store.write(make_trial(1, value=0.5))
    write(store, "trial-1", 4, "search", [True] * 45 + [False] * 5 + [True] * 11 + [False] * 39)
    store.write(make_trial(2, value=0.5))
    write(store, "trial-2", 4, "search", [True] * 50 + [False] * 50)
    store.close()
    verdict = compared(capsys, "a/trial-0", "a/trial-1")
    assert (verdict["decision"], verdict["num_gained"], verdict["num_lost"]) == ("not_proven", 11, 5)
    assert verdict["low"] < 0 < verdict["high"] and verdict["e_value"] < 20
    assert verdict["more_problems"] > 100 and verdict["minimum_detectable_difference"] > verdict["difference"]
    assert f"{verdict['more_problems']:,} more problems would prove it" in verdict["sentence"]
    assert main(("compare", "a/trial-0", "a/trial-1")) == OK
    said = capsys.readouterr().out
    assert "not proven" in said and "a/trial-1" in said and "56.0%" in said
    assert compared(capsys, "a/0", "a/2")["more_problems"] is None


@pytest.mark.usefixtures("two_studies")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "b/final"), "a: write STUDY/RUN"),
        (("a/0", "b/final@x"), "write STUDY/RUN or STUDY/RUN@STEP"),
        (("a/0", "b/final@3"), "its steps: 0, 2, 4"),
        (("a/0", "b/7"), "its runs: final-x"),
        (("a/0", "c/0"), "studies with results: a, b"),
        (("a/0", "b/final", "--pool", "validation"), "no problem of the pool validation was solved by both: a/trial-0@4 on"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("compare", *arguments)) == USER_ERROR
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_study_says_what_it_has_proven(capsys: pytest.CaptureFixture[str]) -> None:
    store = new_store("demo")
    rule = Rule(SPACE, SELECTION, num_confirm=100)
    searched = {f"search.{name}.{key}": value for name, one in SPACE.items() for key, value in one.model_dump().items()}
    store.record_settings(searched | {f"selection.{key}": value for key, value in SELECTION.model_dump().items()})
    rights = (3, 5, 7)  # of ten problems
    for number, right in enumerate(rights):
        store.write(make_trial(number, {RATE: 10.0 ** -(number + 2), SIZE: 16}, value=right / 10))
        write(store, f"trial-{number}", 4, "search", [place % 10 < right for place in range(100)])

    def verdict() -> dict[str, Any]:
        assert main(("show", "demo", "--json")) == OK
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["verdict"]
        jsonschema.validate(found, json.loads(SCHEMA.read_text()))
        return found

    assert (verdict()["promoted"], verdict()["tuning"], verdict()["final"]) == (None, None, None)
    while isinstance(wanted := decide(recorded_results(store), rule), Confirm):
        start, stop = map(int, wanted.pool.partition(":")[2].split("-"))
        for name in wanted.trials:
            write(store, name, 4, wanted.pool, [p % 10 < rights[int(name[-1])] for p in range(start, stop)], start)
    assert wanted is not None
    store.write(wanted)
    found = verdict()
    assert found["promoted"] == found["tuning"]["second"]["run"] == "trial-2"
    tuning, runner_up = found["tuning"], found["runner_up"]
    assert (tuning["first"]["run"], tuning["pools"], tuning["num_problems"]) == ("trial-0", ["confirm"], 100)
    assert tuning["decision"] == "better" and tuning["difference"] == pytest.approx(0.4)
    assert "demo/trial-2@4 was chosen by its scores on confirm" in tuning["cautions"][0]
    assert runner_up["first"]["run"] == "trial-1" and runner_up["pools"] == ["confirm", "search"]
    points = f"{100 * runner_up['difference']:+.1f} points ({100 * runner_up['low']:+.1f} to {100 * runner_up['high']:+.1f})"
    assert f"trial 2 beats trial 1 on {runner_up['num_problems']} problems: {points}" in wanted.reason

    store.write(make_final(value=0.6))
    for step, right in ((0, 1), (4, 6)):
        write(store, "final-x", step, "validation", [place % 10 < right for place in range(100)])
    assert (verdict()["final"]["pools"], verdict()["final"]["decision"]) == (["validation"], "better")
    assert "chosen by its scores on validation" in verdict()["final"]["cautions"][0]
    store.close()


def test_the_shipped_schema_is_that_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == verdict_schema(), "run: python -m tools.make_verdict_schema"
