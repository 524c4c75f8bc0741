"""The best checkpoint and what its choice is worth."""

import random

import pytest

from mathsft.reporting.best_checkpoint_sentence import best_words
from mathsft.runs.best_checkpoint import best_checkpoint
from mathsft.store.study_store import StudyStore
from tests.build import make_final, make_responses, score_of

RUN = make_final(seed=3)
NUM_PROBLEMS = 100


def write_score(store: StudyStore, step: int, correct: set[int], pool: str = "validation") -> None:
    responses = make_responses("correct" if number in correct else "wrong_answer" for number in range(NUM_PROBLEMS))
    store.write(score_of(responses, RUN.name, step, pool), responses)


def test_equal_checkpoints_flatter_their_best_and_a_clear_one_is_not_flattered(store: StudyStore) -> None:
    store.write(RUN)
    rng = random.Random(0)
    for step in range(9):
        write_score(store, step, set(rng.sample(range(NUM_PROBLEMS), 48 + step % 3)))
    flattered = best_checkpoint(store, RUN)
    assert flattered is not None
    assert (flattered.step, flattered.num_checkpoints, flattered.tested) == (2, 9, None)
    assert 0.02 < flattered.optimism < 0.12
    write_score(store, 9, set(range(95)))
    write_score(store, 9, set(range(90)), pool="test")
    clear = best_checkpoint(store, RUN)
    assert clear is not None
    assert (clear.step, clear.validated.accuracy) == (9, 0.95)
    assert clear.optimism == pytest.approx(0, abs=0.005)
    assert clear.tested is not None and clear.tested.accuracy == 0.9
    words = best_words(clear)
    assert words.startswith(
        "The best of 10 checkpoints is step 9: it solves 95.0% (88.8% – 97.8%) of 100 validation problems."
    )
    assert f"expect {clear.corrected_accuracy:.1%} on other problems." in words
    assert words.endswith("It solves 90.0% (82.6% – 94.5%) of the test problems, which were not used for the selection.")
    assert f"about {100 * flattered.optimism:.1f} points" in best_words(flattered)


def test_one_checkpoint_was_not_chosen(store: StudyStore) -> None:
    store.write(RUN)
    write_score(store, 0, {1})
    assert best_checkpoint(store, RUN) is None
