"""Opposite figures make opposite sentences: none of them is fixed."""

from pathlib import Path

import pytest

from mathsft.layout import StudyLayout
from mathsft.records import Problem
from mathsft.reporting.characteristics import characteristics_section
from mathsft.reporting.findings import findings_section, paired
from mathsft.reporting.origin import architecture_section, settings_section
from mathsft.reporting.study_report import write_report
from mathsft.store.study_store import StudyStore
from tests.build import (
    make_categories,
    make_final,
    make_plan,
    make_promotion,
    make_response,
    make_worker_call,
    score_of,
)

PLAN = make_plan(640, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "validation", keep="best_and_last")
SETTINGS = {"training.learning_rate": 1e-3, "training.batch_size": 16}
FINAL = make_final(SETTINGS, PLAN, name="final-0123abcd", value=0.6)
STEPS = (0, 8, 16, 24, 32, 40)


def write(
    store: StudyStore, run: str, step: int, pool: str, correct: int, failed: int, cut: int = 0, tokens: int = 30
) -> None:
    length = {"num_tokens": tokens, "entropy": tokens / 100}
    responses = [
        make_response(f"p{place:04}", category, finish_reason="length" if place >= 200 - cut else "stop", **length)
        for place, category in enumerate(make_categories(correct, 200, failed))
    ]
    store.write(score_of(responses, run, step, pool), responses)


def write_final(store: StudyStore, validated: tuple[int, ...], failed: int, cut: int = 0) -> None:
    store.write(FINAL)
    for step, correct in zip(STEPS, validated, strict=True):
        write(
            store,
            FINAL.name,
            step,
            "validation",
            correct,
            180 if step == 0 else failed,
            cut if step else 0,
            40 if step else 30,
        )
    best = max(zip(validated, STEPS, strict=True), key=lambda pair: (pair[0], -pair[1]))[1]
    for step, correct in ((0, validated[0]), (best, max(validated))):
        write(store, FINAL.name, step, "test", correct, 180 if step == 0 else failed, cut if step else 0, 40 if step else 30)


def test_a_rising_run_whose_format_is_learned(store: StudyStore) -> None:
    write_final(store, (10, 30, 50, 70, 90, 110), failed=0)
    said = findings_section(store)
    assert (
        "The best checkpoint of final-0123abcd is more accurate than the base model on the same 200 test problems: +50.0 "
        "points (+43.1 to +56.9) of accuracy (100 problems gained, 0 lost)" in said
    )
    assert "in the answer: of its 90 incorrect responses, 0 fail the format. That is 0.0% (0.0% – 1.9%) of all its" in said
    assert "responses have 40 tokens on average (base model: 30). Their mean token entropy is 0.40 nats (base" in said
    assert "Train longer (`final.num_examples`): the accuracy still rises" in said
    assert "show demo final --responses wrong_answer" in said
    assert "max_tokens" not in said and "not the last" not in said


def test_a_run_that_falls_and_fails_the_format(store: StudyStore) -> None:
    write_final(store, (20, 18, 15, 12, 8, 4), failed=120, cut=110)
    said = findings_section(store)
    assert "more accurate" not in said
    assert "There is no evidence that longer training helps" in said
    assert "Use the checkpoint of step 0, not the last" in said
    assert "Train longer" not in said


def test_format_failures_and_cut_responses_are_named(store: StudyStore) -> None:
    write_final(store, (10, 20, 30, 40, 50, 60), failed=120, cut=110)
    said = findings_section(store)
    assert "in the format: of its 140 incorrect responses, 120 fail the format. That is 60.0% (53.1%" in said
    assert "Raise `evaluation.max_tokens`: 110 of 200 responses of the best checkpoint, 55.0% (48.1% – 61.7%)" in said
    assert "show demo final --responses format_failure" in said


@pytest.mark.parametrize(
    ("of_trial", "verdict"),
    [
        (20, "increased the accuracy"),
        (110, "made no measurable difference"),
        (190, "decreased the accuracy"),
    ],
)
def test_whether_more_training_than_the_trials_helped(of_trial: int, verdict: str, store: StudyStore) -> None:
    write_final(store, (10, 30, 50, 70, 90, 110), failed=0)
    store.write(make_promotion("trial-3", FINAL.overrides))
    write(store, "trial-3", 40, "validation", of_trial, 0)
    assert f"Training longer than trial-3 {verdict}:" in findings_section(store)


def test_an_empty_store_has_no_findings(store: StudyStore, tmp_path: Path) -> None:
    assert findings_section(store) == ""
    assert paired(store, FINAL, "validation", 8) is None
    store.write(FINAL)
    assert findings_section(store) == architecture_section(store, FINAL) == ""
    assert write_report(store, StudyLayout(tmp_path)).is_file()


def test_settings_say_where_they_come_from_and_workers_where_they_worked(store: StudyStore, tmp_path: Path) -> None:
    write_final(store, (10, 30, 50, 70, 90, 110), failed=0)
    searched = "search.training.learning_rate"
    store.record_settings({f"{searched}.low": 1e-5, f"{searched}.high": 1e-2, f"{searched}.log": True})
    store.write(make_promotion("trial-3", {**SETTINGS, "training.batch_size": 8}))
    for pool, visible in (("", "0"), ("validation", "1")):
        store.write(make_worker_call(FINAL.name, 40, 1.0, 2.0, pool, cpus=(), cuda_visible_devices=visible))
    settings = settings_section(store, FINAL)
    assert "| training.learning\\_rate" not in settings
    assert "| training.learning_rate | 0.001 | 1e-05 to 0.01, log scale | promoted by the study (trial-3) |" in settings
    by_user = "set by the user or by --horizon adjust; the promoted value is 8"
    assert f"| training.batch_size | 16 |  | {by_user} |" in settings
    architecture = architecture_section(store, FINAL)
    assert "| trainer-0 | CUDA_VISIBLE_DEVICES=0 | training to step 40 |" in architecture
    assert "| evaluator | CUDA_VISIBLE_DEVICES=1 | 1 scores |" in architecture
    first = write_report(store, StudyLayout(tmp_path)).read_bytes()
    assert write_report(store, StudyLayout(tmp_path)).read_bytes() == first
    assert b"Key findings" in first and b"gain over the base model" in first


def test_responses_are_described_with_intervals_and_by_subject(store: StudyStore) -> None:
    write_final(store, (10, 30, 50, 70, 90, 110), failed=0)
    kinds = [("Algebra", 1), ("Geometry", 5)]
    store.record_problems(
        Problem(f"p{place:04}", "", "", "1", level=kinds[place % 2][1], subject=kinds[place % 2][0]) for place in range(200)
    )
    section = characteristics_section(store, FINAL)
    assert "| mean tokens | 30.00 (30.00 – 30.00) | 40.00 (40.00 – 40.00) |" in section
    assert "| token entropy, nats | 0.30 (0.30 – 0.30) | 0.40 (0.40 – 0.40) |" in section
    assert "| Algebra | 5.0% (2.2% – 11.2%) | 55.0% (45.2% – 64.4%) |" in section
    assert "| 5 | 5.0% (2.2% – 11.2%) | 55.0% (45.2% – 64.4%) |" in section


@pytest.mark.parametrize(("tested", "is_said"), [(110, False), (60, True)])
def test_pools_with_another_mix_of_problems_are_named(store: StudyStore, tested: int, is_said: bool) -> None:
    store.write(FINAL)
    for step, correct in ((0, 10), (40, 110)):
        write(store, FINAL.name, step, "validation", correct, 0)
    for step, correct in ((0, 10), (40, tested)):
        write(store, FINAL.name, step, "test", correct, 0)
    said = findings_section(store)
    assert ("the two pools are not equally hard" in said) == is_said
    assert ("solves 30.0% of the test problems and 55.0% of the validation problems" in said) == is_said
