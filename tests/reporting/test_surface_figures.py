"""The report draws the surface that decided: through the same points, over the same ranges."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

import mathsft.reporting.surface_figures as drawing
import mathsft.runs.contest as contest
import mathsft.study.decide as decision
from mathsft.config.study_schema import Choices, FloatRange, SearchRange, SelectionSettings
from mathsft.layout import StudyLayout
from mathsft.objective import Objective
from mathsft.records import Overrides, Promotion, RunState
from mathsft.reporting.study_report import write_report
from mathsft.reporting.surface_figures import importance_bars, surface_map
from mathsft.runs.contest import Rule, recorded_observations
from mathsft.runs.results import recorded_results
from mathsft.statistics.surface import Observation
from mathsft.store.study_store import StudyStore
from mathsft.study.decide import Confirm, decide, propose
from tests.build import make_response, make_score, make_trial

RATE, SIZE = "training.learning_rate", "training.batch_size"
SPACE: dict[str, SearchRange] = {
    RATE: FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    SIZE: Choices(type="categorical", choices=(8, 16, 32)),
}
SELECTION = SelectionSettings(num_smoothed=3, num_raw=1, round_trials=(4, 2), round_problems=(30, 60))
RULE = Rule(SPACE, SELECTION, num_confirm=75)
NUM_SAMPLES = 3
SETTINGS: dict[str, Any] = {
    "evaluation.num_samples": NUM_SAMPLES,
    **{f"search.{name}.{field}": value for name, given in SPACE.items() for field, value in given.model_dump().items()},
    **{f"selection.{field}": value for field, value in SELECTION.model_dump().items()},
}
STATES: dict[int, RunState] = {3: "pruned", 5: "diverged", 6: "failed"}

Fit: TypeAlias = tuple[list[tuple[str, SearchRange]], list[tuple[Overrides, float, float]]]


@pytest.fixture(autouse=True)
def _settings(store: StudyStore) -> None:
    store.record_settings(SETTINGS)


def write_score(store: StudyStore, run: str, step: int, pool: str, num_problems: int, share: float) -> None:
    """Record what a model would reach that has this share of the responses right."""
    random = Random(f"{run} {step} {pool}")
    responses = [
        make_response(f"p{place:03}", "correct" if random.random() < share else "wrong_answer", sample=sample)
        for place in range(num_problems)
        for sample in range(NUM_SAMPLES)
    ]
    objective = Objective(num_samples=NUM_SAMPLES)
    num_correct, solved = objective.counts(responses)["correct"], objective.solved(responses)
    score = make_score(run, step, pool, num_correct, num_problems, num_samples=NUM_SAMPLES, solved=solved)
    store.write(score, responses)


def share_of(number: int) -> float:
    return 0.5 - 0.04 * abs(number - 7)


def write_trial(store: StudyStore, number: int, share: float | None = None) -> None:
    """Record a trial scored twice on the search pool; one that diverged was scored once before."""
    state = STATES.get(number, "finished")
    overrides = {RATE: 10.0 ** (-4.9 + 0.25 * number), SIZE: (8, 16, 32)[number % 3]}
    store.write(make_trial(number, overrides, state=state))
    for step in (4, 8) if state == "finished" else (4,):
        write_score(store, f"trial-{number}", step, "search", 40, (share or share_of(number)) * step / 8)


def promoted(store: StudyStore) -> Promotion:
    """Play the driver: score what is asked for until there is a promotion, which is recorded."""
    while isinstance(found := decide(recorded_results(store), RULE), Confirm):
        start, stop = map(int, found.pool.removeprefix("confirm:").split("-"))
        for name in found.trials:
            write_score(store, name, 8, found.pool, stop - start, share_of(int(name.removeprefix("trial-"))) - 0.1)
    assert found is not None
    store.write(found)
    return found


def spied(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[Fit]:
    """Return what each later call of a module's function fits a surface to."""
    fits: list[Fit] = []
    original = getattr(module, name)

    def spy(space: Mapping[str, SearchRange], observed: Sequence[Observation], *more: Sequence[Overrides]) -> Any:
        fits.append((list(space.items()), [(one.settings, one.accuracy, one.variance) for one in observed]))
        return original(space, observed, *more)

    monkeypatch.setattr(module, name, spy)
    return fits


def test_the_report_draws_the_surface_that_decided(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        write_trial(store, number)
    promoted(store)
    # The study goes on: two trials better than all before push others out that every round had scored.
    for number, share in ((10, 0.85), (11, 0.9)):
        write_trial(store, number, share)
    promotion = promoted(store)
    scored = {one.run for one in promotion.finalists if one.num_responses == RULE.num_confirm * NUM_SAMPLES}

    decided, drawn, weighed = (
        spied(monkeypatch, *what) for what in ((contest, "smooth"), (drawing, "predict"), (drawing, "importance"))
    )
    assert decide(recorded_results(store), RULE) == promotion
    space, points = decided[-2]  # the last one is that of the table of finalists
    assert len(points) == 11  # of 12, one failed
    assert sum(accuracy == variance == 0.0 for _, accuracy, variance in points) == 1
    write_report(store, StudyLayout(tmp_path))
    assert drawn == weighed == [(space, points)]

    entered = {one.trial.run.name for one in recorded_observations(store)[1] if len(one.pools) == 3}
    assert promotion.run in entered < scored


def test_before_a_promotion_the_report_draws_what_proposals_see(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        write_trial(store, number)
    proposed = spied(monkeypatch, decision, "new_optimum")
    propose(recorded_results(store), SPACE)
    space, observed = recorded_observations(store)
    assert proposed == [(list(space.items()), [(one.settings, one.accuracy, one.variance) for one in observed])]


def test_a_surface_needs_enough_trials_and_diverged_and_pruned_ones_are_on_the_map(store: StudyStore) -> None:
    for number in range(4):
        write_trial(store, number)
    space, observed = recorded_observations(store)
    assert len(observed) == 4
    assert surface_map(space, observed, None) is importance_bars(space, observed) is None
    for number in (4, 5, 6):
        write_trial(store, number)
    space, observed = recorded_observations(store)
    trials = store.runs("trial")
    surface, bars = surface_map(space, observed, None, trials), importance_bars(space, observed)
    assert surface is not None and bars is not None
    drawn = surface.render()
    assert drawn.count("<rect") > 3 * 48
    assert "trial-5: diverged" in drawn and "trial-6: not in the fit, failed" in drawn and " of 40 problems" in drawn
    # Pruned at 13 %, where finished trials have half of what they reach.
    [predicted] = re.findall(r"trial-3: pruned, predicted to end at ([\d.]+)%", drawn)
    assert float(predicted) / 100 == pytest.approx(2 * store.scores("trial-3")[0].accuracy, abs=0.06)
    assert "learning_rate: " in bars.render() and bars.render().count("<path") == 2, "an interval for each setting"


def test_a_study_without_recorded_ranges_has_no_surface(store: StudyStore) -> None:
    store.record_settings({})
    write_trial(store, 0)
    assert recorded_observations(store) == ({}, [])
