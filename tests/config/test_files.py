"""Where a study's results go: beside its file, or, for a shipped study, under the current directory."""

from pathlib import Path

import pytest

from mathsft.cli import main
from mathsft.config.files import find_yaml_file, results_folder

ROOT = Path(__file__).parents[2]


def test_results_lie_beside_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "quickstart.yaml").touch()  # shadows the shipped one
    assert results_folder(find_yaml_file("study", "quickstart", None, "")) == Path("studies/quickstart")
    assert results_folder(Path("mine-1.5b.yaml")) == Path("mine-1.5b")
    assert results_folder(Path("/elsewhere/studies/mine.yaml")) == Path("/elsewhere/studies/mine")


@pytest.mark.parametrize("wanted", ["quickstart", str(ROOT / "studies" / "quickstart.yaml")])
def test_results_of_a_shipped_study_lie_in_the_current_directory(
    wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, ROOT):
        monkeypatch.chdir(folder)
        found = find_yaml_file("study", wanted, None, "")
        assert found.resolve() == ROOT / "studies" / "quickstart.yaml"
        assert results_folder(found) == Path("studies/quickstart")


def test_a_shipped_studys_results_are_looked_for_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for study in ("quickstart", str(ROOT / "studies" / "quickstart.yaml")):
        assert main(["show", study]) == 2
        assert f"no study with results in {tmp_path}/studies/quickstart;" in capsys.readouterr().err
        assert main(["final", "--from-best", "--study", study]) == 2
        options = "" if study == "quickstart" else f" --study {study}"
        assert capsys.readouterr().err.rstrip().endswith(f"-m mathsft study{options}")


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").touch()
    assert main(["study", "--study", "quickstart"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"study folder {tmp_path}/studies/quickstart: cannot be written (Not a directory)" in line
