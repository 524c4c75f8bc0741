from dataclasses import replace

from mathsft.config.study_schema import HorizonSettings, RunSettings
from mathsft.records import Run
from mathsft.reporting.horizon_section import horizon_curves, horizon_of, horizon_section, horizon_words
from mathsft.runs.horizon_runs import horizon_runs
from mathsft.store.study_store import StudyStore
from tests.build import make_experiment, make_final, make_plan, make_promotion, make_score

PROMOTED = {"training.learning_rate": 1e-3, "training.batch_size": 8}
TRIAL = RunSettings(num_examples=2048, eval_points=(1.0,))
SETTINGS = HorizonSettings(num_examples=512)
STAYS = {512: (120, 240, 300, 236, 124), 2048: (220, 340, 400, 344, 216)}
MOVES = {512: (30, 90, 200, 330, 400), 2048: (400, 420, 300, 150, 60)}
MOVES_INSIDE = {512: (40, 120, 260, 330, 300), 2048: (330, 430, 380, 230, 90)}


def write(store: StudyStore, correct: dict[int, tuple[int, ...]]) -> list[Run]:
    store.write(make_promotion("trial-1", PROMOTED))
    runs = horizon_runs(SETTINGS, TRIAL, make_experiment(), PROMOTED, 0)
    places = {length: iter(counts) for length, counts in correct.items()}
    for run in runs:
        num_correct = next(places[run.plan.num_examples])
        store.write(make_score(run.name, 64, "confirm", num_correct, 800))
        store.write(replace(run, state="finished", value=num_correct / 800))
    return runs


def test_a_rate_that_moves_is_to_be_adjusted_and_one_that_stays_kept(store: StudyStore) -> None:
    write(store, MOVES_INSIDE)
    horizon = horizon_of(store, 8192)
    assert horizon is not None and horizon.factor_per_doubling.high < 1
    assert horizon.learning_rate.low < horizon.learning_rate.middle < 1e-3
    assert horizon_words(store, 8192).endswith("Use this learning rate for the final run with --horizon adjust.")
    write(store, STAYS)
    assert "The factor's interval includes 1, so keep the promoted learning rate." in horizon_words(store, 8192)


def test_without_a_best_rate_among_those_tried_the_promoted_one_stays(store: StudyStore) -> None:
    assert horizon_words(store, 8192) == horizon_section(store) == ""
    assert horizon_curves(store) is None
    write(store, MOVES)
    assert horizon_of(store, 8192) is None
    assert "Keep the promoted learning rate." in horizon_words(store, 8192)


def test_the_section_holds_what_was_predicted_against_what_was_reached(store: StudyStore) -> None:
    write(store, STAYS)
    plan = make_plan(8192, (1.0,), "validation", keep="best_and_last")
    for name, num_correct in (("final-00000001", 520), ("final-00000002", 80)):
        store.write(make_score(name, 1024, "validation", num_correct, 800))
        store.write(make_final(PROMOTED, plan, name=name, value=num_correct / 800))
    section = horizon_section(store)
    assert "| 0.00025 | 512 | 120 of 800 | 15.0% (12.7% – 17.6%) |" in section
    assert section.count("that was predicted for the best learning rate: ") == 2
    assert "solves 65.0% (61.6% – 68.2%) of the validation problems. This is inside the interval" in section
    assert "solves 10.0% (8.1% – 12.3%) of the validation problems. This is outside the interval" in section
    curves = horizon_curves(store)
    assert curves is not None and "2,048 examples" in curves.render()
