import json
import shlex
from contextlib import closing
from pathlib import Path

import pytest

from mathsft.cli import main
from mathsft.commands.stores import storage_of
from mathsft.errors import OK, USER_ERROR
from mathsft.records import Problem
from mathsft.store.study_store import StudyStore
from tests.build import make_checkpoint, make_promotion, make_response, make_trial, score_of
from tests.postgresql import Server


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished study of two trials in studies/demo under the current directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "studies" / "demo"
    folder.mkdir(parents=True)
    store = StudyStore.open(f"sqlite:///{folder / 'study.db'}", "demo")
    store.record_problems([Problem("p0", "What is 1+1?", "", "2", level=1), Problem("p1", "How many \x1b[2J?", "", "3")])
    for number, first in ((0, "correct"), (1, "wrong_answer")):
        run = f"trial-{number}"
        store.write(make_trial(number, {"training.learning_rate": 0.01}, value=number / 2))
        for step in (1, 2):
            path = f"runs/{run}/step-{step:06d}"
            (folder / path).mkdir(parents=True)
            (folder / path / "model.safetensors").write_bytes(b"weights")
            store.write(make_checkpoint(run, step, path))
            solved, cut = first if step == 1 else "correct", {"finish_reason": "length", "reason": "incomplete_generation"}
            responses = [
                make_response("p0", solved, text="so </think> <answer> 2 </answer>", body="2"),
                make_response("p1", "format_failure", text="\x1b]0;owned\x07 no tags", **cut),
            ]
            store.write(score_of(responses, run, step), responses)
    store.write(make_promotion("trial-0", reason="it won"))
    store.close()
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == OK
    return capsys.readouterr().out


def test_all_studies_one_study_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert "demo" in shown(capsys, "show")
    of_study = shown(capsys, "show", "demo")
    assert "trial-1" in of_study and "Promoted: trial-0, it won" in of_study
    of_run = shown(capsys, "show", "demo", "1")
    assert "gained 1 problems" in of_run and "By level" in of_run and "incomplete_generation" in of_run


def test_responses_by_category_step_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    failures = shown(capsys, "show", "demo", "best", "--responses", "format_failure")
    assert "1 of 2 responses" in failures and "p1" in failures and "p0" not in failures
    assert "0 of 2" in shown(capsys, "show", "demo", "1", "--responses", "wrong_answer")
    assert "1 of 2" in shown(capsys, "show", "demo", "1", "--responses", "wrong_answer", "--step", "1")
    assert "p0" in shown(capsys, "show", "demo", "0", "--search", "what is 1+1")


def test_what_a_model_wrote_does_not_reach_the_terminal_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    pages = shown(capsys, "show", "demo", "0") + shown(capsys, "show", "demo", "0", "--responses", "all")
    assert "owned" in pages
    assert "\x1b" not in pages and "\x07" not in pages


def test_json_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown(capsys, "show", "--json"))[0]["promoted"] == "trial-0"
    assert len(json.loads(shown(capsys, "show", "demo", "--json"))["runs"]) == 2
    checkpoints = json.loads(shown(capsys, "show", "demo", "1", "--json"))["checkpoints"]
    assert [one["gained"] for one in checkpoints] == [[], ["p0"]]
    assert json.loads(shown(capsys, "show", "demo", "1", "--responses", "correct", "--json"))[0]["problem_id"] == "p0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nope",), "studies with results: demo"),
        (("demo", "7"), "its runs: trial-0, trial-1"),
        (("demo", "final"), "its runs: trial-0, trial-1"),
        (("demo", "0", "--step", "9"), "its steps: 1, 2"),
        (("demo", "0", "--responses", "all", "--pool", "test"), "it has scores on: search"),
    ],
)
def test_mistakes_name_what_there_is(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("show", *arguments)) == USER_ERROR
    assert said in capsys.readouterr().err


def test_clean_frees_only_what_nobody_asks_for(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "runs/trial-0/.step-000003.partial").mkdir()
    (study / "runs/trial-0/.step-000003.partial/model.safetensors").write_bytes(b"half")
    assert "--yes" in shown(capsys, "clean", "demo")
    assert (study / "runs/trial-1/step-000002").exists()
    assert "Freed" in shown(capsys, "clean", "demo", "--yes")
    left = sorted(path.parent.relative_to(study).as_posix() for path in study.glob("runs/**/model.safetensors"))
    assert left == ["runs/trial-0/step-000002"]  # the promoted trial's last
    assert "Nothing to free" in shown(capsys, "clean", "demo")


def test_a_study_is_found_where_its_file_says(study: Path) -> None:
    url = "postgresql+psycopg://me@host/all"
    (study.parent / "model-1.5b.yaml").write_text(f"storage: {url}\n")
    (study.parent / "model-1.yaml").write_text("storage: another\n")
    assert storage_of("model-1.5b", None) == storage_of("studies/model-1.5b.yaml", None) == url
    assert storage_of("model-1.5b", "given") == "given"
    assert storage_of("demo", None) is None


@pytest.mark.slow
def test_studies_on_a_server_are_found_and_advised_with_their_address(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.new_database().render_as_string()
    with closing(StudyStore.open(url, "there")) as store:
        store.write(make_trial(0, {"training.learning_rate": 0.01}, value=0.5))
        assert main(("show", "there", "--storage", url)) == USER_ERROR  # only a study with settings has begun
        store.record_settings({"training.method": "full"})
    assert "studies with results: none yet" in capsys.readouterr().err
    advised = shlex.join(["--storage", url])
    for words in (("show",), ("show", "there"), ("show", "there", "0")):
        assert advised in shown(capsys, *words, "--storage", url).rpartition("Next:")[2]
    assert main(("show", "demo", "--storage", url)) == USER_ERROR
    assert "studies with results: there" in capsys.readouterr().err
    assert main(("dashboard", "there", "--storage", url)) == USER_ERROR
    assert advised in capsys.readouterr().err
