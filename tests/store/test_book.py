"""The book: what is written is what is read back, once, whatever else goes wrong."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mathsft.errors import UserError
from mathsft.records import FrequentGold, Problem, Quality
from mathsft.store import book as book_module
from mathsft.store.book import Book
from mathsft.store.folder import StudyFolder
from tests.build import (
    make_baseline,
    make_checkpoint,
    make_metrics,
    make_plan,
    make_promotion,
    make_response,
    make_trial,
    score_of,
)

RUN = make_trial(0, {"training.learning_rate": 1e-3, "training.batch_size": 8}, make_plan(64, (0.5, 1.0)), seed=7)
CHECKPOINT = make_checkpoint("trial-0", 4, "runs/trial-0/step-000004", "abc", train_seconds=1.5)
FAILURE = {"reason": "incomplete_generation", "finish_reason": "length", "tag_flags": ("missing_think_close",)}
RESPONSES = [
    make_response("p1", text="3 </think> <answer>3</answer>", body="3", num_tokens=9),
    make_response("p2", "format_failure", text="…", num_tokens=96, **FAILURE),
]
SCORE = score_of(RESPONSES, fingerprint="abc", responses_path="runs/trial-0/responses/x.jsonl", generate_seconds=0.5)


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def notify(self, record: object) -> None:
        self.heard.append(record)


def test_every_record_is_read_back_equal(book: Book) -> None:
    metrics = make_metrics(loss=2.5, learning_rate=1e-4, num_tokens=812, num_computed_tokens=640, flop_utilization=0.5)
    promotion = make_promotion("trial-0", RUN.overrides, "highest", {"accuracy": 0.5})
    quality = Quality(900, 2, "rows.jsonl:7: no", 3, 6, 4, 37, 5, (FrequentGold("Yes", 30, 900, "rows.jsonl:1"),))
    assert book.quality() is None
    for record in (RUN, metrics, CHECKPOINT, promotion, quality):
        book.write(record)
    book.write(SCORE, RESPONSES)
    assert book.run("trial-0") == RUN
    assert book.metrics("trial-0") == [metrics]
    assert book.checkpoints("trial-0") == [CHECKPOINT]
    assert book.scores() == book.scores("trial-0", "search") == [SCORE]
    assert sorted(book.responses(SCORE), key=lambda response: response.problem_id) == RESPONSES
    assert book.promotion() == promotion
    assert book.quality() == quality


def test_a_mended_problem_replaces_what_was_recorded(book: Book) -> None:
    first, second = Problem("p1", "What is 1+1?", "Count.", "3"), Problem("p2", "What is 1+2?", "Count.", "3")
    other = Book.open(str(book.engine.url), "other")
    other.record_problems([first])
    book.record_problems([first, second])
    book.record_problems(iter([replace(first, answer="2")]))
    assert book.problems() == {"p1": replace(first, answer="2"), "p2": second}
    assert other.problems() == {"p1": first}


def test_observers_hear_news_only_and_may_fail(book: Book) -> None:
    class Broken:
        def notify(self, record: object) -> None:
            raise RuntimeError("no network")

    listener = Listener()
    book.observers += [Broken(), listener]
    book.write(RUN)
    book.write(RUN)
    ended = replace(RUN, state="finished", value=0.5)
    book.write(ended)
    steps = [make_metrics("trial-0", step) for step in (1, 2)]
    book.write_metrics(steps[:1])
    book.write_metrics(steps)
    assert listener.heard == [RUN, ended, *steps]


def test_trials_come_in_their_own_order_and_studies_do_not_mix(book: Book) -> None:
    for number in (10, 9, 2):
        book.write(make_trial(number))
    book.write(make_baseline())
    other = Book.open(str(book.engine.url), "other")
    other.write(RUN)
    assert [run.name for run in book.runs()] == ["baseline", "trial-2", "trial-9", "trial-10"]
    assert [run.name for run in book.runs("trial-")] == ["trial-2", "trial-9", "trial-10"]
    assert [run.name for run in other.runs()] == ["trial-0"]


def test_changed_settings_are_refused_by_name(book: Book) -> None:
    book.record_settings({"training.learning_rate": 1e-3, "model.path": "a"})
    book.check({"training.learning_rate": 2e-3, "model.path": "b"})  # nothing has run yet: a first mistake may be mended
    book.write(RUN)
    book.check({"training.learning_rate": 1e-3, "model.path": "a"})
    book.check({"training.learning_rate": 2e-3, "model.path": "a"}, bound=("model.",))
    with pytest.raises(UserError, match=r"training\.learning_rate: 0\.001 -> 0\.002"):
        book.check({"training.learning_rate": 2e-3, "model.path": "a"})


def test_another_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    Book.open(url, "demo").close()
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("update msft_schema set number = 99")
    with pytest.raises(UserError, match="schema is number 99"):
        Book.open(url, "demo")


def test_a_database_in_use_is_one_clear_line(book: Book, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(book_module, "LOCK_TIMEOUT_SECONDS", 0)
    blocked = Book.open(f"sqlite:///{tmp_path / 'study.db'}", "demo")
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("begin immediate")
        with pytest.raises(UserError, match="database is locked"):
            blocked.write(RUN)
    blocked.write(RUN)
    assert blocked.run("trial-0") == RUN


def test_a_second_driver_is_refused_and_a_dead_one_is_not(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    code = (
        "import sys; from pathlib import Path; from mathsft.store.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {other.pid}"), folder.locked():
            pass
        os.kill(other.pid, signal.SIGKILL)
    with folder.locked():
        assert (folder.path / "driver.lock").read_text() == str(os.getpid())
