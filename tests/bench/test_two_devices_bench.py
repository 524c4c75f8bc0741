import io
import json

from rich.console import Console

from bench.two_devices import Pair, Speed, result_line, table, training_speed, words
from mathsft.accounting.concurrency import Concurrency, Wait
from mathsft.store.study_store import StudyStore
from tests.build import make_checkpoint, make_final, make_worker_call

PAIRS = [
    Pair(Speed(alone, alone), Speed(scored, 0.97 * alone))
    for alone, scored in ((100.0, 95.0), (100.0, 40.0), (200.0, 184.0))
]
FOUND = Concurrency(100.0, 60.0, 90.0, 55.0, (Wait("a", 0, 0.0, 4.0), Wait("a", 4, 1.0, 5.0), Wait("a", 8, 8.0, 12.0)))


def test_the_line_has_the_median_pair_and_the_waits() -> None:
    assert json.loads(result_line(PAIRS, FOUND)) == {
        "training_speed_share": 0.92,
        "training_processor_share": 0.97,
        "both_busy_share": 0.55,
        "median_wait_seconds": 1.0,
        "max_wait_seconds": 8.0,
    }


def test_a_reader_sees_every_pair_and_what_the_workers_did() -> None:
    output = io.StringIO()
    Console(file=output, width=120).print(table(PAIRS))
    assert "40.0%" in output.getvalue()
    assert "in 100 s of wall-clock time: both busy 55.0%, trainer 60.0%, evaluator 90.0%" in words(FOUND)


def test_speed_is_by_the_clock_with_all_that_lies_between_two_requests(store: StudyStore) -> None:
    store.write(make_final())
    for step, began, ended in ((4, 10.0, 12.0), (8, 13.0, 20.0)):
        store.write(make_worker_call("final-x", step, began, ended, cpu_seconds=2.0))
        store.write(make_checkpoint("final-x", step, num_tokens=500.0))
    store.write(make_worker_call("final-x", 4, 12.0, 99.0, "validation"))
    assert training_speed(store, "final-x") == Speed(by_clock=100.0, by_processor=250.0)
