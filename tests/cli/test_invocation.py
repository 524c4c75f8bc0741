"""Commands that messages name can be typed as they are, in the way in which the user typed the last one."""

import shlex
import sys
from pathlib import Path

import pytest

from mathsft.cli import main
from mathsft.invocation import command, program, python


def start_as(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [path, "--trials", "3"])


@pytest.mark.parametrize(
    ("started", "name", "expected"),
    [
        ("run_study.py", "final", "PYTHON run_final.py --from-best"),
        ("run_final.py", "study", "PYTHON run_study.py --from-best"),
        ("../mathsft/run_study.py", "final", "PYTHON ../mathsft/run_final.py --from-best"),
        ("run_study.py", "show", "PYTHON -m mathsft show --from-best"),
        ("/anywhere/mathsft/__main__.py", "final", "PYTHON -m mathsft final --from-best"),
        ("/anywhere/pytest", "final", "PYTHON -m mathsft final --from-best"),
        ("/no/such/bin/mathsft", "final", "/no/such/bin/mathsft final --from-best"),
        (".venv/bin/mathsft", "show", ".venv/bin/mathsft show --from-best"),
    ],
)
def test_the_next_command_is_started_as_this_one(
    started: str, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_as(started, monkeypatch)
    assert command(name, "--from-best") == expected.replace("PYTHON", python())


def test_a_program_on_the_path_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mathsft").touch(0o755)
    start_as(str(tmp_path / "mathsft"), monkeypatch)
    assert command("final") == "./mathsft final"
    monkeypatch.chdir("/")
    assert command("final") == f"{str(tmp_path)[1:]}/mathsft final"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command("final") == "mathsft final"


def test_arguments_survive_the_shell() -> None:
    words = ["--set", "prompt.template=my prompt.txt", "--set", "final.eval_points=[0,1]", "it's"]
    assert shlex.split(command("final", *words))[-5:] == words


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("run_study.py", "run_study.py"),
        ("/anywhere/mathsft/__main__.py", "python -m mathsft study"),
        ("/anywhere/bin/mathsft", "mathsft study"),
    ],
)
def test_a_wrong_option_names_the_command_as_it_was_typed(
    started: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_as(started, monkeypatch)
    assert program("study") == expected
    with pytest.raises(SystemExit) as ended:
        main(["study", "--no-such-option"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: {expected} [-h] [--study NAME|FILE]")
    assert said.endswith(f"{expected}: error: unrecognized arguments: --no-such-option\n")
