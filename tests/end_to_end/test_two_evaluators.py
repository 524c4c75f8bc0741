"""Two evaluators with an engine each score a final run's checkpoints side by side, on the CPU, with one result."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mathsft.config.schema import LimitSettings
from mathsft.data.models import resolve_model
from mathsft.layout import StudyLayout
from mathsft.records import Score
from mathsft.runs.context import StudyContext
from mathsft.runs.crew import Crew
from mathsft.runs.final import final_run, run_final
from mathsft.store.book import Book
from mathsft.workers.placement import place
from tests.build import make_experiment, make_machine, make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def final_scores(folder: Path, num_evaluators: int) -> tuple[dict[tuple[int, str], Score], set[str]]:
    """Return the scores of a final run, and who made them."""
    folder.mkdir()
    layout, experiment = StudyLayout(folder), make_experiment(max_length_tokens=256)
    local = experiment.model_copy(
        update={"model": experiment.model.model_copy(update={"path": str(resolve_model("quickstart"))})}
    )
    placement = place(make_machine(), local, layout, "final")
    evaluators = [replace(placement.evaluators[0], device=f"cpu:{1 + place}") for place in range(num_evaluators)]
    book = Book.open(layout.database_url, "two")
    plan = make_plan(128, (0.0, 0.25, 0.5, 0.75, 1.0), "watch", keep="best_and_last", max_unscored=9)
    run = final_run(experiment, {"evaluation.max_tokens": 48}, plan, 0)
    with Crew.hired(replace(placement, evaluators=tuple(evaluators)), LimitSettings()) as crew:
        ended = asyncio.run(run_final(run, None, StudyContext(book, crew, layout, experiment)))
    assert ended.state == "finished"
    assert not list(folder.rglob("*.progress"))
    scores = {(score.step, score.pool): score for score in book.scores(run.name)}
    workers = {stint.worker for stint in book.stints() if stint.pool}
    book.close()
    return scores, workers


def test_two_evaluators_give_the_scores_of_one(tmp_path: Path) -> None:
    alone, by_one = final_scores(tmp_path / "one", 1)
    together, by_two = final_scores(tmp_path / "two", 2)
    assert (by_one, by_two) == ({"evaluator-0"}, {"evaluator-0", "evaluator-1"})
    assert alone.keys() == together.keys()
    for key, score in alone.items():
        assert replace(score, costs=together[key].costs) == together[key]
