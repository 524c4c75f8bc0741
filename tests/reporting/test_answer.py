import math

import pytest

from mathsft.reporting.answer import answer, tuning_gain, verdict_on
from mathsft.statistics.paired import compare
from mathsft.store.study_store import StudyStore
from tests.build import make_promotion, make_responses, make_trial, score_of

SETTINGS = {"training.learning_rate": 1e-3}


def write_confirmed(store: StudyStore, run: str, pool: str, correct: str) -> None:
    """Record a score on a slice of the confirm pool: a letter for each problem, "y" if it is solved."""
    responses = make_responses("correct" if letter == "y" else "wrong_answer" for letter in correct)
    store.write(score_of(responses, run, 4, pool), responses)


def test_what_tuning_was_worth_is_counted_on_the_fresh_problems_that_both_solved(store: StudyStore) -> None:
    promotion = make_promotion("trial-1", SETTINGS, "trial 1 promoted: a; +1 point; tuning was worth it; training.x")
    store.write(make_trial(0))
    store.write(make_trial(1))
    store.write(promotion)
    assert tuning_gain(store, promotion) is None
    for run, first, second in (("trial-0", "ynnnn", "nnnnn"), ("trial-1", "nyyyy", "yyyyy")):
        write_confirmed(store, run, "confirm:0-5", first)
        write_confirmed(store, run, "confirm:5-10", second)
    write_confirmed(store, "trial-1", "confirm:10-12", "nn")  # trial 0 was not scored here
    gain = tuning_gain(store, promotion)
    assert gain is not None and (gain.num_problems, gain.num_gained, gain.num_lost) == (10, 9, 1)
    assert gain.difference == pytest.approx(0.8)
    assert "- **Gain** Tuning: +80.0 points" in answer(store)
    assert "Choice: trial 1 promoted: a; +1 point." in answer(store)
    assert "- **Winner** learning_rate 0.001 (trial-1)" in answer(store)
    assert "final --from-best" in answer(store), "the next step"


@pytest.mark.parametrize(
    ("num_gained", "num_lost", "words"),
    [
        (60, 2, "yes (e-value over"),
        (9, 0, "yes (e-value 102;"),
        (9, 1, "likely, not yet"),
        (3, 2, "no (the"),
        (1, 12, "no, it is"),
    ],
)
def test_a_gain_is_proven_by_its_e_value(num_gained: int, num_lost: int, words: str) -> None:
    first = [0.0] * num_gained + [1.0] * num_lost + [1.0] * 40
    second = [1.0] * num_gained + [0.0] * num_lost + [1.0] * 40
    gain = compare(first, second)
    # A uniform prior on the share of gained problems above one half: 2^(n+1) times the integral of p^b (1-p)^c there.
    points = [(place + 0.5) / 20_000 for place in range(10_000, 20_000)]
    integral = math.fsum(math.exp(num_gained * math.log(p) + num_lost * math.log1p(-p)) for p in points) / 20_000
    e_value = 2 ** (num_gained + num_lost + 1) * integral
    assert gain.e_value == pytest.approx(e_value, rel=1e-3)
    assert verdict_on(gain).startswith(words), (verdict_on(gain), e_value)
