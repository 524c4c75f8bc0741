import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mathsft.config.schema import Experiment
from mathsft.records import Checkpoint, Plan, Promotion, Run, Score, Scoring, StepMetrics
from mathsft.store.book import Book, Record
from mathsft.tracking.live import LiveProgress

PLAN = Plan(num_examples=160, eval_points=(0.5, 1.0), pool="search", max_unscored=2, keep="last")
EXPERIMENT = Experiment.model_validate(
    {"model": {"path": "m"}, "data": {"source": "d"}, "training": {"learning_rate": 5e-5, "batch_size": 8}}
)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book.open(f"sqlite:///{tmp_path / 'study.db'}", "study")
    yield book
    book.close()


def trial(number: int, **changes: object) -> Run:
    run = Run(f"trial-{number}", {"training.learning_rate": 1.2e-3, "training.batch_size": 16}, PLAN, seed=number)
    return replace(run, **changes)


def step(run: str, number: int) -> StepMetrics:
    return StepMetrics(run, number, 1.5, 1e-3, 0.5, 640, 640, 0.1, None)


def score(run: str, at_step: int, num_correct: int, pool: str = "search") -> Score:
    counts = {"correct": num_correct, "wrong_answer": 100 - num_correct, "format_failure": 100, "ungraded": 0}
    return Score(run, at_step, pool, 200, counts, "f", "r")


def lines_of(book: Book, events: list[tuple[float, Record]], num_trials: int = 2) -> list[str]:
    """Write records at given seconds to a book that a plain console watches; return its lines."""
    output, clock = io.StringIO(), Clock()
    with LiveProgress(Console(file=output, width=40), book, num_trials, EXPERIMENT, clock) as live:
        book.observers = [live]
        for clock.seconds, record in events:
            book.write(record)
    return output.getvalue().splitlines()


def test_a_study_is_one_plain_line_per_event(book: Book) -> None:
    checkpoint = Checkpoint("trial-0", 10, "p", "f")
    assert lines_of(
        book,
        [
            (1, trial(0)),
            (5, step("trial-0", 1)),
            (9, step("trial-0", 10)),
            (9, checkpoint),
            (15, score("trial-0", 10, 49)),
            (15, trial(0, state="finished", value=0.245)),
            (16, trial(1)),
            (18, step("trial-1", 1)),
            (22, trial(1, state="finished", value=0.1)),
            (23, trial(2)),
            (24, trial(2, state="diverged", value=0.0, reason="loss is nan\nat step 3")),
            (24, Promotion("trial-0", {}, "highest accuracy", {})),
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


def test_a_final_run_counts_its_own_steps_and_names_its_best(book: Book) -> None:
    final = Run("final-0123abcd", {}, replace(PLAN, pool="watch"), seed=0)
    lines = lines_of(
        book,
        [
            (0, trial(0, state="finished", value=0.9)),
            (0, final),
            (10, step(final.name, 1)),
            (20, score(final.name, 0, 40, "watch")),
            (310, step(final.name, 5)),
            (310, score(final.name, 4, 30, "watch")),
            (400, score(final.name, 5, 99, "test")),
        ],
    )
    assert lines[-2].endswith(
        "step 4/20  15.0% (10.7% – 20.6%) on watch  format 50.0%  best so far step 0 20.0%  about 18 min left"
    )
    assert "best so far step 0 20.0%" in lines[-1], "nothing is chosen on the test pool"


def test_a_final_run_shows_how_many_checkpoints_are_published_and_not_yet_scored(book: Book) -> None:
    final = Run("final-0123abcd", {}, replace(PLAN, pool="watch"), seed=0)
    lines = lines_of(
        book,
        [
            (0, final),
            (1, Checkpoint(final.name, 0, "p", "f")),
            (2, step(final.name, 10)),
            (2, Checkpoint(final.name, 10, "p", "f")),
            (3, step(final.name, 20)),
            (3, Checkpoint(final.name, 20, "p", "f")),
            (4, score(final.name, 0, 40, "watch")),
            (5, score(final.name, 0, 40, "test")),
            (6, score(final.name, 10, 40, "watch")),
            (7, score(final.name, 20, 40, "watch")),
        ],
    )
    queues = [re.findall(r"(\d+) to score", line) for line in lines]
    assert queues == [[], ["2"], ["3"], ["2"], ["2"], ["1"], []]


def test_a_new_driver_counts_what_earlier_ones_did_as_done(book: Book) -> None:
    lines_of(book, [(0, trial(0)), (1, step("trial-0", 5))])
    ended = trial(0, state="finished", value=0.5)
    again = replace(step("trial-0", 5), seconds=0.2)
    scored = score("trial-0", 5, 49)
    events = [(1, scored), (3, again), (3, trial(1, state="failed")), (8, step("trial-0", 10)), (8, ended)]
    lines = lines_of(book, events, num_trials=2)
    assert lines[1].endswith("trial-1  failed"), "nothing new is done, so there is no pace yet"
    assert lines[-1].endswith("about 10 s left"), "half a trial took 5 s, a whole one is left"


def test_the_time_that_the_engine_takes_to_start_is_not_taken_for_the_pace(book: Book) -> None:
    lines = lines_of(
        book,
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


def test_a_terminal_shows_the_events_above_a_moving_line(book: Book) -> None:
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with LiveProgress(console, book, 2, EXPERIMENT, clock) as live:
        book.observers = [live]
        for clock.seconds, record in [
            (1, trial(0)),
            (2, step("trial-0", 1)),
            (2, score("trial-0", 1, 49)),
            (4, step("trial-0", 5)),
        ]:
            book.write(record)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    assert "started" in shown
    assert re.search(r"━+ trial-0  step 5/10  loss 1\.5000  about \d+ s left", shown)


def test_the_moving_line_tells_of_a_scoring_until_its_score_is_there(book: Book) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    progress = "scoring trial-0 step 5: 120 of 200"
    with LiveProgress(console, book, 2, EXPERIMENT) as live:
        book.observers = [live]
        for record in (trial(0), step("trial-0", 5)):
            book.write(record)
        book.announce(Scoring("trial-0", 5, "search", 120, 200))
        live._live.refresh()
        assert progress in output.getvalue()
        book.write(score("trial-0", 5, 60))
        output.truncate(0)
        live._live.refresh()
        assert progress not in output.getvalue()
        assert "trial-0" in output.getvalue()
