"""Most trials cannot be told from the base model, or hardly from zero: the user hears it at once."""

from random import Random

import pytest

from mathsft.runs.weak_signal import weak_signal
from mathsft.store.study_store import StudyStore
from tests.build import make_baseline, make_responses, make_trial, score_of

NUM_PROBLEMS = 200


def write(store: StudyStore, run: str, step: int, num_correct: int, seed: int) -> None:
    correct = set(Random(seed).sample(range(NUM_PROBLEMS), num_correct))
    responses = make_responses("correct" if place in correct else "wrong_answer" for place in range(NUM_PROBLEMS))
    store.write(score_of(responses, run, step, "search"), responses)


@pytest.mark.parametrize(
    ("base", "trials", "is_weak"),
    [
        (0, (6, 5, 7, 4, 6), True),  # the published search chose on 6 of 200
        (60, (61, 66, 58, 63, 120), True),  # four of five are the base model's
        (60, (120, 110, 100, 63, 58), False),
        (4, (40, 44, 30, 6, 5), False),
        (60, (61, 66, 58, 63), False),  # too few to say
    ],
)
def test_weak_signal(store: StudyStore, base: int, trials: tuple[int, ...], is_weak: bool) -> None:
    store.write(make_baseline(state="finished"))
    write(store, "baseline", 0, base, seed=99)
    for number, num_correct in enumerate(trials):
        store.write(make_trial(number, state="finished", value=num_correct / NUM_PROBLEMS))
        write(store, f"trial-{number}", 8, num_correct, seed=number)
    sentence = weak_signal(store)
    assert bool(sentence) == is_weak
    if is_weak:
        assert "trial.num_examples" in sentence and "data.pools.search" in sentence


def test_without_a_baseline_nothing_is_said(store: StudyStore) -> None:
    for number in range(6):
        store.write(make_trial(number, state="finished", value=0.0))
        write(store, f"trial-{number}", 8, 0, seed=number)
    assert weak_signal(store) == ""
