import pytest

from mathsft.accounting.ledger import Timekeeper, cost_ledger
from mathsft.store.study_store import StudyStore
from tests.build import (
    Clock,
    make_baseline,
    make_checkpoint,
    make_final,
    make_promotion,
    make_score,
    make_session,
    make_trial,
    make_worker_call,
)


def test_what_workers_did_and_how_long_they_idled(store: StudyStore) -> None:
    clock = Clock()
    store.observers.append(Timekeeper(store, num_trainers=2, num_evaluators=3, clock=clock))
    for run in (make_baseline(value=0.1), make_trial(0, value=0.6), make_trial(1, state="pruned")):
        store.write(run)
    store.write(make_promotion("trial-0"))
    for number, seconds in ((0, 30.0), (1, 10.0)):
        clock.now += 50
        store.write(make_checkpoint(f"trial-{number}", 4, train_seconds=seconds, num_tokens=9.0))
        store.write(make_score(f"trial-{number}", 4, generate_seconds=5.0, grade_seconds=1.0, peak_memory_bytes=1e9))
    ledger = cost_ledger(store)
    trainer, evaluator = ledger.worker_times
    assert trainer.seconds == {"train": 40.0, "idle": 160.0}
    assert evaluator.seconds == {"generate": 10.0, "grade": 2.0, "idle": 288.0}
    assert ledger.device_hours == pytest.approx(500 / 3600), "two trainers and three evaluators for 100 s"
    assert (ledger.pruned_seconds, ledger.lost_seconds) == (16.0, 0.0)
    assert ledger.points_per_device_hour == pytest.approx(50 / (500 / 3600))


def test_sessions_of_several_drivers_add_up(store: StudyStore) -> None:
    for _ in range(2):
        clock = Clock()
        store.observers[:] = [Timekeeper(store, num_trainers=1, num_evaluators=1, clock=clock)]
        store.write(make_trial())
        clock.now = 7
        store.write(make_checkpoint("trial-0", len(store.sessions()), train_seconds=3.0))
    assert [session.seconds for session in store.sessions()] == [7, 7]
    assert cost_ledger(store).worker_times[0].seconds == {"train": 6.0, "idle": 8.0}


def test_after_a_final_run_its_own_gain_is_divided_by_its_own_hours(store: StudyStore) -> None:
    for run in (make_baseline(value=0.1), make_trial(value=0.6), make_final(value=0.5)):
        store.write(run)
    store.write(make_promotion("trial-0"))
    for step, correct in ((0, 1), (4, 3)):
        store.write(make_score("final-x", step, "validation", correct, 4))
    for began, seconds, name in ((1000, 3600.0, "trial-0"), (1000 + 2 * 3600, 1800.0, "final-x")):
        store.write(make_session(began, seconds, num_evaluators=2 if name == "final-x" else 1))
        store.write(make_worker_call(name, 4, began + 60, began + 70))
    ledger = cost_ledger(store)
    assert ledger.device_hours == pytest.approx(3.5)
    assert ledger.points_per_device_hour == pytest.approx(50 / 1.5), "half an hour of three workers"
