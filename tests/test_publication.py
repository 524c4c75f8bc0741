"""Stamps recognise the files that were hashed, and nothing else; publications reach the driver once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mathsft import publication
from mathsft.data.weights import fingerprint
from mathsft.errors import ErrorKind
from mathsft.evaluation import known_files
from mathsft.evaluation.known_files import KnownFiles
from mathsft.publication import Publication, heard, stamps_of, tell
from tests.build import make_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "step-000004"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(bytes([number]) * 1000)
    (folder / "config.json").write_text("{}")
    return folder


def overwrite(path: Path) -> None:
    """Change one byte, and give the file its earlier times."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(500)
        file.write(b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copy_over(path: Path) -> None:
    """Put an equal copy with equal times in the file's place."""
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, 999)


CHANGES: list[Callable[[Path], None]] = [overwrite, copy_over, truncate, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_changed_are_not_those_that_were_hashed(folder: Path, change: Callable[[Path], None]) -> None:
    before = stamps_of(folder)
    assert [stamp.name for stamp in before] == ["model-1.safetensors", "model-2.safetensors"]
    assert stamps_of(folder) == before, "reading changes nothing"
    (folder / "README.md").write_text("a card, written later")
    assert stamps_of(folder) == before
    change(folder / "model-2.safetensors")
    assert stamps_of(folder) != before


def test_a_folder_that_is_renamed_stays_known_and_a_copy_is_not(folder: Path) -> None:
    before = stamps_of(folder)
    copied = shutil.copytree(folder, folder.with_name("copied"))
    assert stamps_of(copied) != before
    assert stamps_of(folder.rename(folder.with_name("renamed"))) == before


def test_files_are_hashed_once_on_each_machine_and_after_each_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint("trial-0", 4, stamps=stamps_of(folder), fingerprint=fingerprint(folder))
    known, hashed = KnownFiles(), []
    monkeypatch.setattr(known_files, "fingerprint", lambda path: hashed.append(path) or fingerprint(path))

    def is_known() -> bool:
        with known.loading(checkpoint, folder) as found:
            return found

    assert is_known(), "the trainer hashed them on this machine"
    (tmp_path / "boot_id").write_text("another-machine\n")
    monkeypatch.setattr(publication, "BOOT_ID", tmp_path / "boot_id")
    known = KnownFiles()  # the memory of another process
    assert hashed == []
    assert [is_known(), is_known()] == [True, True]
    assert hashed == [folder]
    overwrite(folder / "model-1.safetensors")
    with pytest.raises(KeyError), known.loading(checkpoint, folder) as found:
        assert not found
        raise KeyError("the fingerprint is another one")
    assert not is_known(), "what did not have the fingerprint is not remembered"
    shutil.rmtree(folder)
    assert not is_known()


def test_files_of_another_machine_are_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make_checkpoint("trial-0", 4, stamps=stamps_of(folder), fingerprint=fingerprint(folder))
    arriving = [shutil.copytree(folder, tmp_path / "whole"), tmp_path / "missing", shutil.copytree(folder, tmp_path / "old")]
    overwrite(arriving[2] / "model-1.safetensors")
    (tmp_path / "boot_id").write_text("another-machine\n")
    monkeypatch.setattr(publication, "BOOT_ID", tmp_path / "boot_id")

    def look_again(_: float) -> None:
        shutil.rmtree(folder)
        if (following := arriving.pop()).exists():
            shutil.copytree(following, folder)
        else:
            folder.mkdir()

    monkeypatch.setattr(known_files.time, "sleep", look_again)
    overwrite(folder / "model-2.safetensors")
    with KnownFiles().loading(checkpoint, folder) as is_known:
        assert is_known and not arriving and not caplog.records
    overwrite(folder / "model-2.safetensors")
    with KnownFiles(arrival_seconds=0).loading(checkpoint, folder) as is_known:
        assert not is_known
    assert "did not arrive in 0 s" in caplog.text


def test_a_publication_is_heard_once(tmp_path: Path) -> None:
    path = tmp_path / "published-000004.json"
    assert heard(path) is None
    for told in (Publication("f" * 32, stamps_of(tmp_path)), Publication(error="full", error_kind=ErrorKind.USER)):
        tell(told, path)
        assert heard(path) == told
        assert heard(path) is None
    assert list(tmp_path.iterdir()) == []
