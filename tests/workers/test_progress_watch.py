from pathlib import Path

import pytest

from mathsft.config.study_schema import LimitSettings
from mathsft.workers.progress_watch import ProgressWatch
from tests.build import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, clock: Clock) -> ProgressWatch:
    return ProgressWatch(tmp_path / "progress", LimitSettings(start_seconds=100, hang_seconds=10), clock)


def test_a_start_may_take_longer_than_what_follows(watch: ProgressWatch, clock: Clock, tmp_path: Path) -> None:
    watch.begin()
    clock.now = 100
    assert watch.complaint() == ""
    (tmp_path / "progress").write_text("1")
    assert watch.complaint() == ""
    clock.now = 110
    assert watch.complaint() == ""
    clock.now = 111
    assert "10 s (limits.hang_seconds)" in watch.complaint()


def test_what_never_starts_is_complained_of(watch: ProgressWatch, clock: Clock) -> None:
    watch.begin()
    clock.now = 101
    assert "100 s (limits.start_seconds)" in watch.complaint()
    watch.begin()
    assert watch.complaint() == ""


def test_a_shorter_file_is_a_sign_of_life_but_no_progress(watch: ProgressWatch, clock: Clock, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    progress.write_text("123")
    assert watch.got_further()
    watch.begin()
    progress.write_text("1")
    clock.now = 99
    assert watch.complaint() == ""
    clock.now = 108
    assert watch.complaint() == ""  # counted from the last sign, not from the beginning
    assert not watch.got_further()
    progress.write_text("1234")
    assert watch.got_further()


def test_without_a_file_nothing_hangs(clock: Clock) -> None:
    watch = ProgressWatch(None, LimitSettings(), clock)
    clock.now = 1e9
    assert watch.complaint() == ""
    assert not watch.got_further()
