"""The store: what is written is what is read back, once, whatever else goes wrong."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.records import Finding, Problem, Quality
from mathsft.store import database as database_module
from mathsft.store.lock import locked
from mathsft.store.study_store import StudyStore
from tests.build import (
    Listener,
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
    make_response("p1", text="3 \N{SNOWMAN} </think> <answer>3</answer>", body="3", num_tokens=9),
    make_response("p2", "format_failure", text="…", num_tokens=96, **FAILURE),
]
SCORE = score_of(RESPONSES, fingerprint="abc", responses_path="runs/trial-0/responses/x.jsonl", generate_seconds=0.5)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StudyStore]:
    """The store of the study "demo": what follows is a contract that every database keeps."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'study.db'}"
    else:
        url = request.getfixturevalue("server").new_database().render_as_string(hide_password=False)
    store = StudyStore.open(url, "demo")
    yield store
    store.close()


def test_every_record_is_read_back_equal(store: StudyStore) -> None:
    metrics = make_metrics(loss=2.5, learning_rate=1e-4, num_tokens=812, num_computed_tokens=640, flop_utilization=0.5)
    promotion = make_promotion("trial-0", RUN.overrides, "highest", evidence={"accuracy": 0.5})
    quality = Quality(900, (Finding("unreadable", 2, 2, ("rows.jsonl:7: no",)), Finding("variant", 4, 4, ())))
    assert store.quality() is None
    for record in (RUN, metrics, CHECKPOINT, promotion, quality):
        store.write(record)
    store.write(SCORE, RESPONSES)
    assert store.run("trial-0") == RUN
    assert store.metrics("trial-0") == [metrics]
    assert store.checkpoints("trial-0") == [CHECKPOINT]
    assert store.scores() == store.scores("trial-0", "search") == [SCORE]
    assert sorted(store.responses(SCORE), key=lambda response: response.problem_id) == RESPONSES
    assert store.promotion() == promotion
    assert store.quality() == quality


def test_a_mended_problem_replaces_what_was_recorded(store: StudyStore) -> None:
    first, second = Problem("p1", "What is 1+1?", "Count.", "3"), Problem("p2", "What is 1+2?", "Count.", "3")
    other = StudyStore.open(store.database, "other")
    other.record_problems([first])
    store.record_problems([first, second])
    store.record_problems(iter([replace(first, answer="2")]))
    assert store.problems() == {"p1": replace(first, answer="2"), "p2": second}
    assert other.problems() == {"p1": first}


def test_observers_hear_news_only_and_may_fail(store: StudyStore) -> None:
    class Broken:
        def notify(self, record: object) -> None:
            raise RuntimeError("no network")

    listener = Listener()
    store.observers += [Broken(), listener]
    store.write(RUN)
    store.write(RUN)
    ended = replace(RUN, state="finished", value=0.5)
    store.write(ended)
    steps = [make_metrics("trial-0", step) for step in (1, 2)]
    store.write_metrics(steps[:1])
    store.write_metrics(steps)
    assert listener.heard == [RUN, ended, *steps]


def test_trials_come_in_their_own_order_and_studies_do_not_mix(store: StudyStore) -> None:
    for number in (10, 9, 2):
        store.write(make_trial(number))
    store.write(make_baseline())
    other = StudyStore.open(store.database, "other")
    other.write(RUN)
    assert [run.name for run in store.runs()] == ["baseline", "trial-2", "trial-9", "trial-10"]
    assert [run.name for run in store.runs("trial")] == ["trial-2", "trial-9", "trial-10"]
    assert [run.name for run in other.runs()] == ["trial-0"]


def test_changed_settings_are_refused_by_name(store: StudyStore) -> None:
    store.record_settings({"training.learning_rate": 1e-3, "model.path": "a"})
    store.check({"training.learning_rate": 2e-3, "model.path": "b"})  # nothing has run yet: a first mistake may be mended
    store.write(RUN)
    store.check({"training.learning_rate": 1e-3, "model.path": "a"})
    store.check({"training.learning_rate": 2e-3, "model.path": "a"}, bound=("model.",))
    with pytest.raises(UserError, match=r"training\.learning_rate: 0\.001 -> 0\.002"):
        store.check({"training.learning_rate": 2e-3, "model.path": "a"})


def test_another_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    StudyStore.open(url, "demo").close()
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("update msft_version set version_num = '9999'")
    with pytest.raises(UserError, match=r"newer version .* \(revision 9999\)"):
        StudyStore.open(url, "demo")
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("create table msft_schema (number integer)")
    with pytest.raises(UserError, match="an earlier version of mathsft"):
        StudyStore.open(url, "demo")


def test_a_database_in_use_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT_SECONDS", 0)
    blocked = StudyStore.open(f"sqlite:///{tmp_path / 'study.db'}", "demo")
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("begin immediate")
        with pytest.raises(UserError, match="database is locked"):
            blocked.write(RUN)
    blocked.write(RUN)
    assert blocked.run("trial-0") == RUN


def test_a_second_driver_is_refused_and_a_dead_one_is_not(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path / "study")
    code = (
        "import sys; from pathlib import Path; from mathsft.layout import StudyLayout\n"
        "from mathsft.store.lock import locked\n"
        "with locked(StudyLayout(Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(layout.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {other.pid}"), locked(layout):
            pass
        os.kill(other.pid, signal.SIGKILL)
    with locked(layout):
        assert layout.lock.read_text() == str(os.getpid())
