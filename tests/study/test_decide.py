"""Who wins."""

from mathsft.records import Plan, Run
from mathsft.study.decide import decide

PLAN = Plan(64, (1.0,), "search", 2, "last")


def trial(number: int, state: str, value: float | None) -> Run:
    return Run(f"trial-{number}", {"training.batch_size": number}, PLAN, 0, state, value)  # type: ignore[arg-type]


def test_the_most_accurate_finished_trial_wins_and_the_earliest_of_equals() -> None:
    trials = [trial(0, "finished", 0.1), trial(1, "finished", 0.3), trial(2, "finished", 0.3), trial(3, "pruned", None)]
    promotion = decide(trials)
    assert promotion is not None
    assert (promotion.run, promotion.overrides) == ("trial-1", {"training.batch_size": 1})
    assert "30.0%" in promotion.reason
    assert "of 3 trials" in promotion.reason
    assert "2 equals" in promotion.reason


def test_nobody_wins_where_nobody_finished() -> None:
    assert decide([trial(0, "failed", None), trial(1, "diverged", 0.0), trial(2, "pruned", None)]) is None
