"""Who was busy when, and how long checkpoints waited, with times that were chosen."""

import pytest

from mathsft.accounting.concurrency import Wait, concurrency
from mathsft.store.study_store import StudyStore
from tests.build import make_checkpoint, make_final, make_score, make_session, make_trial, make_worker_call


def train(
    store: StudyStore, step: int, began: float, ended: float, run: str = "final-x", seconds: float | None = None
) -> None:
    took = ended - began if seconds is None else seconds
    store.write(make_worker_call(run, step, began, ended))
    store.write(make_checkpoint(run, step, train_seconds=took, num_tokens=1e9))


def score(
    store: StudyStore, step: int, began: float, ended: float, pool: str = "validation", start_seconds: float = 0.0
) -> None:
    spent = {"start_seconds": start_seconds, "generate_seconds": ended - began - start_seconds}
    store.write(make_worker_call("final-x", step, began, ended, pool))
    store.write(make_score("final-x", step, pool, **spent))


@pytest.fixture
def final(store: StudyStore) -> StudyStore:
    store.write(make_final())
    store.write(make_session(1000, 1.0))
    return store


def test_busy_times_overlap_and_checkpoints_wait_in_turn(final: StudyStore) -> None:
    train(final, 0, 1000, 1010)
    train(final, 4, 1010, 1020)
    train(final, 8, 1020, 1030)
    score(final, 0, 1010, 1024)
    score(final, 4, 1024, 1038)
    score(final, 8, 1038, 1052)
    found = concurrency(final, ["final-x"])
    assert found is not None
    assert (found.wall_seconds, found.trainer_seconds, found.evaluator_seconds) == (52, 30, 42)
    assert found.both_busy_share == pytest.approx(20 / 52)
    assert found.waits == (Wait("final-x", 0, 0, 14), Wait("final-x", 4, 4, 18), Wait("final-x", 8, 8, 22))
    assert (found.median_wait_seconds, found.max_wait_seconds) == (4, 8)


def test_starting_a_worker_is_not_being_busy_and_the_checkpoint_waits_for_it(final: StudyStore) -> None:
    train(final, 0, 1000, 1010, seconds=2.0)  # its process had to start
    score(final, 0, 1010, 1040, start_seconds=20.0)
    found = concurrency(final, ["final-x"])
    assert found is not None
    assert (found.wall_seconds, found.trainer_seconds, found.evaluator_seconds, found.both_seconds) == (32, 2, 10, 0)
    assert found.waits == (Wait("final-x", 0, 20, 30),)


def test_what_lies_between_two_lives_of_a_driver_is_nobodys_wait(final: StudyStore) -> None:
    train(final, 0, 1000, 1010)
    train(final, 4, 1010, 1020)
    final.write(make_session(5000, 1.0))
    score(final, 0, 5003, 5013)
    score(final, 4, 5013, 5023)
    found = concurrency(final, ["final-x"])
    assert found is not None
    assert found.wall_seconds == 20 + 20
    assert [wait.until_started_seconds for wait in found.waits] == [3, 13]


def test_other_runs_keep_workers_busy_but_open_no_time_of_their_own(final: StudyStore) -> None:
    final.write(make_trial())
    train(final, 0, 1000, 1010)
    train(final, 4, 1005, 1100, run="trial-0")
    score(final, 0, 1010, 1020)
    score(final, 0, 1020, 1030, pool="test")
    found = concurrency(final, ["final-x"])
    assert found is not None
    assert (found.wall_seconds, found.trainer_seconds, found.evaluator_seconds, found.both_seconds) == (30, 30, 20, 20)
    assert [wait.until_scored_seconds for wait in found.waits] == [10], "the test pool chose nothing, and nobody waited"
    assert concurrency(final, ["trial-0"]) is None
