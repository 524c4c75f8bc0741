from datetime import UTC, datetime, timedelta

import pytest

from mathsft.records import Checkpoint, Plan, Promotion, Run, Score, Session, Stint
from mathsft.runs.ledger import Timekeeper, cost_ledger
from mathsft.store.book import Book

PLAN = Plan(64, (1.0,), "search", 1, "last")
COUNTS = {"correct": 1, "wrong_answer": 1, "format_failure": 0, "ungraded": 0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_workers_did_and_how_long_they_idled(book: Book) -> None:
    clock = Clock()
    book.observers.append(Timekeeper(book, num_trainers=2, clock=clock))
    for name, state, value in (("baseline", "finished", 0.1), ("trial-0", "finished", 0.6), ("trial-1", "pruned", None)):
        book.write(Run(name, {}, PLAN, 0, state, value))  # type: ignore[arg-type]
    book.write(Promotion("trial-0", {}, "", {}))
    for number, seconds in ((0, 30.0), (1, 10.0)):
        clock.now += 50
        book.write(Checkpoint(f"trial-{number}", 4, "p", "f", timings={"train_seconds": seconds, "num_tokens": 9.0}))
        score_timings = {"generate_seconds": 5.0, "grade_seconds": 1.0, "peak_memory_bytes": 1e9}
        book.write(Score(f"trial-{number}", 4, "search", 2, COUNTS, "f", "r", score_timings))
    ledger = cost_ledger(book)
    trainer, evaluator = ledger.accounts
    assert trainer.seconds == {"train": 40.0, "idle": 160.0}
    assert evaluator.seconds == {"generate": 10.0, "grade": 2.0, "idle": 88.0}
    assert ledger.device_hours == pytest.approx(300 / 3600)
    assert (ledger.pruned_seconds, ledger.lost_seconds) == (16.0, 0.0)
    assert ledger.points_per_device_hour == pytest.approx(50 / (300 / 3600))


def test_sessions_of_several_drivers_add_up(book: Book) -> None:
    for _ in range(2):
        clock = Clock()
        book.observers[:] = [Timekeeper(book, num_trainers=1, clock=clock)]
        book.write(Run("trial-0", {}, PLAN, 0))
        clock.now = 7
        book.write(Checkpoint("trial-0", len(book.sessions()), "p", "f", timings={"train_seconds": 3.0}))
    assert [session.seconds for session in book.sessions()] == [7, 7]
    assert cost_ledger(book).accounts[0].seconds == {"train": 6.0, "idle": 8.0}


def test_after_a_final_run_its_own_gain_is_divided_by_its_own_hours(book: Book) -> None:
    book.write(Run("baseline", {}, PLAN, 0, "finished", 0.1))
    book.write(Run("trial-0", {}, PLAN, 0, "finished", 0.6))
    book.write(Promotion("trial-0", {}, "", {}))
    book.write(Run("final-x", {}, Plan(64, (0.0, 1.0), "watch", 1, "last"), 0, "finished", 0.5))
    for step, correct in ((0, 1), (4, 3)):
        counts = {"correct": correct, "wrong_answer": 4 - correct, "format_failure": 0, "ungraded": 0}
        book.write(Score("final-x", step, "watch", 4, counts, "f", "r"))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for hours_later, seconds, run in ((0, 3600.0, "trial-0"), (2, 1800.0, "final-x")):
        began = start + timedelta(hours=hours_later)
        book.write(Session(began.isoformat(), num_trainers=1, seconds=seconds))
        work = (began + timedelta(seconds=60)).timestamp()
        book.write(Stint("trainer-0", run, 4, "", work, work + 10, (), None, 1.0, 1))
    ledger = cost_ledger(book)
    assert ledger.device_hours == pytest.approx(3)
    assert ledger.points_per_device_hour == pytest.approx(50 / 1.0), "half an hour of two workers"
