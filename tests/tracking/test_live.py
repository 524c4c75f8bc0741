import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

import pytest
from rich.console import Console

from mathsft.records import EngineCheck, OngoingCall, Run, Score, Scoring, StepMetrics
from mathsft.store.study_store import Notification, StudyStore
from mathsft.tracking import heartbeat as heartbeat_module
from mathsft.tracking.heartbeat import SILENCE_SECONDS, Heartbeat
from mathsft.tracking.live import LiveProgress
from tests.build import (
    Clock,
    make_baseline,
    make_categories,
    make_checkpoint,
    make_experiment,
    make_final,
    make_metrics,
    make_plan,
    make_promotion,
    make_responses,
    make_score,
    make_trial,
    make_worker_call,
)

EXPERIMENT = make_experiment(batch_size=8)
FINAL = make_final(plan=make_plan(160, (0.5, 1.0), "validation"), experiment=EXPERIMENT)


def trial(number: int, **changes: object) -> Run:
    overrides = {"training.learning_rate": 1.2e-3, "training.batch_size": 16}
    return make_trial(number, overrides, make_plan(160, (0.5, 1.0)), **changes)


def step(run: str, number: int) -> StepMetrics:
    return make_metrics(run, number, loss=1.5)


def score(run: str, at_step: int, num_correct: int, pool: str = "search") -> Score:
    return make_score(run, at_step, pool, num_correct, 200, num_failed=100)


def lines_of(store: StudyStore, events: list[tuple[float, Notification | str]], num_trials: int = 2) -> list[str]:
    """Have a store hear news at given seconds, or its heart beat, while a plain console watches it; return its lines."""
    output, clock = io.StringIO(), Clock()
    heartbeat = Heartbeat(Console(file=output, width=40), clock)
    with heartbeat.during("deciding"), LiveProgress(heartbeat, store, num_trials) as live:
        store.observers = [live]
        for clock.now, news in events:
            hear(store, heartbeat, news)
    return output.getvalue().splitlines()


def hear(store: StudyStore, heartbeat: Heartbeat, news: Notification | str) -> None:
    match news:
        case "beat":
            heartbeat.beat()
        case OngoingCall() | EngineCheck() | Scoring():
            store.announce(news)
        case _:
            store.write(news)


def test_the_check_of_the_engine_is_one_line(store: StudyStore) -> None:
    [line] = lines_of(store, [(1, EngineCheck(3.2e-6, "Qwen2ForCausalLM", "swap", 2.0))])
    assert line == (
        "[    1.0s]  vLLM and the trainer agree on this Qwen2ForCausalLM before and after swaps: "
        "log probabilities differ by at most 3e-06 nats per token"
    )
    [line] = lines_of(store, [(1, EngineCheck(3.2e-6, "MixtralForCausalLM", "new_engine", 2.0))])
    assert "agree on this MixtralForCausalLM in a new engine for every checkpoint" in line


def test_a_study_is_one_plain_line_per_event(store: StudyStore) -> None:
    assert lines_of(
        store,
        [
            (1, trial(0)),
            (5, step("trial-0", 1)),
            (9, step("trial-0", 10)),
            (9, make_checkpoint("trial-0", 10)),
            (15, score("trial-0", 10, 49)),
            (15, trial(0, state="finished", value=0.245)),
            (16, trial(1)),
            (18, step("trial-1", 1)),
            (22, trial(1, state="finished", value=0.1)),
            (23, trial(2)),
            (24, trial(2, state="diverged", value=0.0, reason="loss is nan\nat step 3")),
            (24, make_promotion("trial-0", reason="highest accuracy")),
        ],
        num_trials=4,
    ) == [
        "[    1.0s]  trial-0  learning_rate 1.20e-03  batch_size 16  started",
        "[    9.0s]  trial-0  step 10/10  trained  loss 1.5000",
        "[   15.0s]  trial-0  step 10/10  24.5% (19.1% – 30.9%) on search  format 50.0%",
        "[   15.0s]  trial-0  finished 24.5%  best so far trial-0 24.5%",
        "[   16.0s]  trial-1  learning_rate 1.20e-03  batch_size 16  started",
        "[   22.0s]  trial-1  finished 10.0%  best so far trial-0 24.5%  about 14 s left",
        "[   23.0s]  trial-2  learning_rate 1.20e-03  batch_size 16  started",
        "[   24.0s]  trial-2  diverged 0.0%  loss is nan  best so far trial-0 24.5%  about 4 s left",
        "[   24.0s]  promoted  trial-0  highest accuracy",
    ]


def test_a_final_run_counts_its_own_steps_and_names_its_best(store: StudyStore) -> None:
    lines = lines_of(
        store,
        [
            (0, trial(0, state="finished", value=0.9)),
            (0, FINAL),
            (10, step(FINAL.name, 1)),
            (20, score(FINAL.name, 0, 40, "validation")),
            (310, step(FINAL.name, 5)),
            (310, score(FINAL.name, 4, 30, "validation")),
            (400, score(FINAL.name, 5, 99, "test")),
        ],
    )
    assert lines[-2].endswith(
        "step 4/20  15.0% (10.7% – 20.6%) on validation  format 50.0%  best so far step 0 20.0%  about 18 min left"
    )
    assert "best so far step 0 20.0%" in lines[-1], "nothing is chosen on the test pool"


def test_a_final_run_shows_how_many_checkpoints_are_published_and_not_yet_scored(store: StudyStore) -> None:
    lines = lines_of(
        store,
        [
            (0, FINAL),
            (1, make_checkpoint(FINAL.name, 0)),
            (2, step(FINAL.name, 10)),
            (2, make_checkpoint(FINAL.name, 10)),
            (3, step(FINAL.name, 20)),
            (3, make_checkpoint(FINAL.name, 20)),
            (4, score(FINAL.name, 0, 40, "validation")),
            (5, score(FINAL.name, 0, 40, "test")),
            (6, score(FINAL.name, 10, 40, "validation")),
            (7, score(FINAL.name, 20, 40, "validation")),
        ],
    )
    queues = [re.findall(r"(\d+) to score", line) for line in lines]
    assert queues == [[], ["2"], ["3"], ["2"], ["2"], ["1"], []]


def test_a_new_driver_counts_what_earlier_ones_did_as_done(store: StudyStore) -> None:
    lines_of(store, [(0, trial(0)), (1, step("trial-0", 5))])
    ended = trial(0, state="finished", value=0.5)
    again = replace(step("trial-0", 5), seconds=0.2)
    scored = score("trial-0", 5, 49)
    events = [(1, scored), (3, again), (3, trial(1, state="failed")), (8, step("trial-0", 10)), (8, ended)]
    lines = lines_of(store, events, num_trials=2)
    assert lines[1].endswith("trial-1  failed"), "nothing new is done, so there is no pace yet"
    assert lines[-1].endswith("about 10 s left"), "half a trial took 5 s, a whole one is left"


def test_the_time_that_the_engine_takes_to_start_is_not_taken_for_the_pace(store: StudyStore) -> None:
    lines = lines_of(
        store,
        [
            (0, trial(0)),
            (10, step("trial-0", 1)),
            (11, step("trial-0", 5)),  # from here on training waits
            (60, trial(1, state="failed")),
            (100, score("trial-0", 5, 49)),
            (102, step("trial-0", 10)),
            (102, trial(0, state="finished", value=0.2)),
        ],
    )
    assert "left" not in lines[1], "nobody knows yet for how long"
    assert lines[-1].endswith("about 4 s left"), "half a trial took 2 s, a whole one is left"


def asked(worker: str, run: str, at_step: int, pool: str = "", **changes: bool) -> OngoingCall:
    return replace(OngoingCall(worker, run, at_step, pool, is_starting=False), **changes)


def test_between_events_a_line_says_who_does_what_and_how_far_that_is(store: StudyStore) -> None:
    training, scoring = asked("trainer-0", "trial-0", 10), asked("evaluator", "trial-0", 5, "search")
    assert lines_of(
        store,
        [
            (1, trial(0)),
            (2, replace(training, is_starting=True)),
            (3, replace(scoring, is_starting=True)),
            (8, "beat"),
            (12, "beat"),
            (15, step("trial-0", 4)),
            (15, "beat"),
            (20, "beat"),
            (28, Scoring("trial-0", 5, "search", 120, 200)),
            (28, "beat"),
            (29, score("trial-0", 5, 49)),
            (29, replace(scoring, is_over=True)),
            (30, asked("evaluator", "trial-0", 10, "search")),
            (31, Scoring("trial-0", 5, "search", 200, 200)),  # an old one
            (38, step("trial-0", 9)),
            (38, "beat"),
            (40, asked("evaluator", "trial-0", 10, "search", is_over=True)),
            (40, replace(training, is_over=True)),
            (164, "beat"),
        ],
    ) == [
        "[    1.0s]  trial-0  learning_rate 1.20e-03  batch_size 16  started",
        "[   12.0s]  starting trainer-0 (torch and the model), 10 s  starting evaluator (torch, vLLM and its engine), 9 s",
        "[   20.0s]  training trial-0: step 4/10, loss 1.5000, 18 s  starting evaluator (torch, vLLM and its engine), 17 s",
        "[   28.0s]  training trial-0: step 4/10, loss 1.5000, 26 s  scoring trial-0 step 5: 120 of 200, 25 s",
        "[   29.0s]  trial-0  step 5/10  24.5% (19.1% – 30.9%) on search  format 50.0%",
        "[   38.0s]  about 20 s left  training trial-0: step 9/10, loss 1.5000, 36 s  scoring trial-0 step 10, 8 s",
        "[  164.0s]  about 24 s left  deciding, 2 min 44 s",
    ]


def test_several_evaluators_are_named(store: StudyStore) -> None:
    first, second = asked("evaluator-0", "trial-0", 5, "search"), asked("evaluator-1", "trial-0", 10, "search")
    lines = lines_of(
        store,
        [
            (1, trial(0)),
            (1, asked("trainer-0", "trial-0", 10)),
            (1, step("trial-0", 10)),
            (2, first),
            (3, second),
            (4, Scoring("trial-0", 5, "search", 7, 200)),
            (5, Scoring("trial-0", 10, "search", 120, 200)),
            (10, "beat"),
            (11, make_worker_call("trial-0", 10, 3.0, 11.0, "search", worker="evaluator-1")),
            (11, score("trial-0", 10, 49)),
            (11, replace(second, is_over=True)),
            (20, "beat"),
        ],
    )
    assert lines[1].endswith(
        "evaluator-0: scoring trial-0 step 5: 7 of 200, 8 s  evaluator-1: scoring trial-0 step 10: 120 of 200, 7 s"
    )
    assert lines[2].endswith("on search  format 50.0%  by evaluator-1")
    assert lines[3].endswith("evaluator-0: scoring trial-0 step 5: 7 of 200, 18 s")


def test_what_trains_no_step_is_prepared_and_a_call_that_fails_is_over(store: StudyStore) -> None:
    call = asked("trainer-0", "baseline", 0)
    events = [(0.0, make_baseline()), (1.0, call), (9.0, "beat"), (10.0, replace(call, is_over=True)), (20.0, "beat")]
    lines = lines_of(store, events)
    assert lines[1:] == ["[    9.0s]  preparing baseline, 8 s", "[   20.0s]  deciding, 20 s"]


def terminal(output: IO[str], **environment: str) -> Console:
    return Console(file=output, force_terminal=True, width=120, _environ={"TERM": "xterm-256color", **environment})


@pytest.fixture
def pipe() -> Iterator[tuple[IO[str], IO[str]]]:
    """Where another thread writes, and where that is read: a read waits for it."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as output, os.fdopen(reading) as shown:
        yield output, shown


def read_until(words: str, shown: IO[str]) -> str:
    seen = ""
    while words not in seen:
        seen += shown.read(1)
    return seen


def test_a_terminal_shows_the_events_above_a_moving_line(store: StudyStore, pipe: tuple[IO[str], IO[str]]) -> None:
    output, shown = pipe
    clock = Clock()
    with Heartbeat(terminal(output), clock) as heartbeat, LiveProgress(heartbeat, store, 2) as live:
        store.observers = [live]
        for clock.now, news in [
            (1, trial(0)),
            (1, asked("trainer-0", "trial-0", 10)),
            (2, step("trial-0", 1)),
            (2, score("trial-0", 1, 49)),
            (4, step("trial-0", 5)),
        ]:
            hear(store, heartbeat, news)
        clock.now = 6
        seen = read_until("training trial-0: step 5/10, loss 1.5000, 5 s", shown)
    assert "started" in seen
    assert re.search(r"━+ about \d+ s left", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen))


def test_the_moving_line_moves_while_nothing_is_heard(pipe: tuple[IO[str], IO[str]]) -> None:
    output, shown = pipe
    clock = Clock()
    with Heartbeat(terminal(output), clock) as heartbeat, heartbeat.during("converting"):
        for clock.now in (3, 4):
            read_until(f"converting, {clock.now} s", shown)


def test_where_no_line_can_move_one_is_written_after_a_silence(
    pipe: tuple[IO[str], IO[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "BEAT_SECONDS", 0.01)
    output, shown = pipe
    clock = Clock()
    with Heartbeat(Console(file=output), clock) as heartbeat, heartbeat.during("converting"):
        clock.now = SILENCE_SECONDS
        assert shown.readline() == "[    8.0s]  converting, 8 s\n"
        clock.now += SILENCE_SECONDS
        assert shown.readline() == "[   16.0s]  converting, 16 s\n"
    output.close()
    assert shown.read() == "", "nothing beats any more"


def test_ten_seconds_are_never_silent() -> None:
    assert SILENCE_SECONDS + heartbeat_module.BEAT_SECONDS < 10


def test_stages_are_told_from_within_and_as_of_now() -> None:
    output, clock, num_bytes = io.StringIO(), Clock(), 5
    heartbeat = Heartbeat(Console(file=output, width=40), clock)
    with heartbeat.during("preparing"):
        with heartbeat.during(lambda: f"{num_bytes} bytes"):
            clock.now, num_bytes = 10, 7
            heartbeat.beat()
        clock.now = 111
        heartbeat.console.print("a line of a command's own")
        clock.now = 118
        heartbeat.beat()
        clock.now = 119
        heartbeat.beat()
    assert output.getvalue().splitlines() == [
        "[   10.0s]  7 bytes, 10 s",
        "a line of a command's own",
        "[  119.0s]  preparing, 119 s",
    ]


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}, {"TTY_INTERACTIVE": "0"}])
def test_a_terminal_that_obeys_no_control_characters_gets_none(environment: dict[str, str], store: StudyStore) -> None:
    output, clock = io.StringIO(), Clock()
    heartbeat = Heartbeat(terminal(output, **environment), clock)
    with heartbeat, heartbeat.during("converting"), LiveProgress(heartbeat, store, 2) as live:
        store.observers = [live]
        store.write(trial(0))
        clock.now = 60
        heartbeat.beat()
    assert output.getvalue().splitlines() == [
        "[    0.0s]  trial-0  learning_rate 1.20e-03  batch_size 16  started",
        "[   60.0s]  converting, 60 s",
    ]


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_no_color_leaves_a_line_that_moves(
    environment: dict[str, str], store: StudyStore, pipe: tuple[IO[str], IO[str]]
) -> None:
    output, shown = pipe
    with Heartbeat(terminal(output, **environment)) as heartbeat, LiveProgress(heartbeat, store, 2) as live:
        store.observers = [live]
        for record in (trial(0), step("trial-0", 5)):
            store.write(record)
        seen = read_until("━", shown) + read_until("\x1b[2K", shown)  # when it is drawn again
    styles = {int(code) for codes in re.findall(r"\x1b\[([0-9;]*)m", seen) for code in codes.split(";") if code}
    assert bool(styles & {*range(30, 50), *range(90, 108)}) == (not environment)


def test_a_weak_signal_is_told_once(store: StudyStore) -> None:
    store.write(make_baseline(state="finished"))
    store.write(make_score("baseline", 0, "search", 0, 200), make_responses(["wrong_answer"] * 200))
    for number in range(7):
        store.write(make_score(f"trial-{number}", 10, "search", 6, 200), make_responses(make_categories(6, 200)))
    ended = [trial(number, state="finished", value=0.03) for number in range(7)]
    lines = lines_of(store, [(1.0 + at, run) for at, run in enumerate(ended)], num_trials=7)
    told = [line for line in lines if "Weak signal" in line]
    assert len(told) == 1 and "5 of 5" in told[0]
