import math

import pytest

from mathsft.reporting.answer import answer, words_of
from mathsft.runs.verdict import PairedVerdict, study_verdict
from mathsft.store.study_store import StudyStore
from tests.build import make_promotion, make_response, make_trial, score_of

SETTINGS = {"training.learning_rate": 1e-3}


def write_confirmed(store: StudyStore, run: str, pool: str, correct: str) -> None:
    """Record a score on a slice of the confirm pool: a letter for each problem, "y" if it is solved."""
    first = int(pool.removeprefix("confirm:").partition("-")[0])
    categories = ("correct" if letter == "y" else "wrong_answer" for letter in correct)
    responses = [make_response(f"p{place:04}", category) for place, category in enumerate(categories, start=first)]
    store.write(score_of(responses, run, 4, pool), responses)


def write_promotion(store: StudyStore) -> None:
    store.write(make_trial(0))
    store.write(make_trial(1))
    store.write(make_promotion("trial-1", SETTINGS, "trial 1 promoted: a; +1 point; tuning was worth it; training.x"))


def tuning(store: StudyStore) -> PairedVerdict:
    verdict = study_verdict(store).tuning
    assert verdict is not None
    return verdict


def test_what_tuning_was_worth_is_counted_on_the_fresh_problems_that_both_solved(store: StudyStore) -> None:
    write_promotion(store)
    assert study_verdict(store).tuning is None
    for run, first, second in (("trial-0", "ynnnn", "nnnnn"), ("trial-1", "nyyyy", "yyyyy")):
        write_confirmed(store, run, "confirm:0-5", first)
        write_confirmed(store, run, "confirm:5-10", second)
    write_confirmed(store, "trial-1", "confirm:10-12", "nn")  # trial 0 was not scored here
    gain = tuning(store)
    assert (gain.num_problems, gain.num_gained, gain.num_lost) == (10, 9, 1)
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
def test_a_gain_is_proven_by_its_e_value(num_gained: int, num_lost: int, words: str, store: StudyStore) -> None:
    write_promotion(store)
    write_confirmed(store, "trial-0", "confirm:0-200", "n" * num_gained + "y" * num_lost + "y" * 40)
    write_confirmed(store, "trial-1", "confirm:0-200", "y" * num_gained + "n" * num_lost + "y" * 40)
    gain, (most, least) = tuning(store), sorted((num_gained, num_lost), reverse=True)
    # A uniform prior on the share of the direction above one half: 2^(n+1) times the integral of p^b (1-p)^c there.
    points = [(place + 0.5) / 20_000 for place in range(10_000, 20_000)]
    integral = math.fsum(math.exp(most * math.log(p) + least * math.log1p(-p)) for p in points) / 20_000
    e_value = 2 ** (num_gained + num_lost + 1) * integral
    assert gain.e_value == pytest.approx(e_value, rel=1e-3)
    assert words_of(gain).startswith(words), (words_of(gain), e_value)
    assert (f"about {gain.more_problems:,} more problems" in words_of(gain)) == words.startswith(("likely", "no (the"))
