import math
from collections.abc import Sequence

import pytest

from mathsft.records import Problem
from mathsft.reporting.group_figures import accuracy_by_group
from mathsft.reporting.pool_mix import pool_mix
from mathsft.store.study_store import StudyStore
from tests.build import make_final, make_response, score_of

RUN = make_final(value=0.5)


def write(store: StudyStore, validation: Sequence[int], test: Sequence[int]) -> None:
    """Record scores on two pools with so many problems of each level, half of them solved."""
    store.write(RUN)
    for pool, counts in (("validation", validation), ("test", test)):
        levels = [level for level, count in enumerate(counts, start=1) for _ in range(count)]
        ids = [f"{pool}-{place:04}" for place in range(len(levels))]
        store.record_problems(
            Problem(problem_id, problem_id, "", "1", level, "Algebra" if level < 2 else "Geometry")
            for problem_id, level in zip(ids, levels, strict=True)
        )
        for step in (0, 4):
            responses = [
                make_response(problem_id, "correct" if step and place % 2 else "wrong_answer")
                for place, problem_id in enumerate(ids)
            ]
            store.write(score_of(responses, RUN.name, step, pool), responses)


@pytest.mark.parametrize(("test", "differs"), [((50, 50), False), ((38, 62), False), ((30, 70), True)])
def test_a_different_mix_of_the_pools_is_named_if_chance_does_not_explain_it(
    test: tuple[int, int], differs: bool, store: StudyStore
) -> None:
    write(store, (50, 50), test)
    # Pearson's statistic of two rows, with Yates's correction; with one degree of freedom its p-value is erfc(sqrt(x / 2)).
    expected = [(50 + count) / 2 for count in test]
    statistic = sum(
        2 * (abs(count - each) - 0.5) ** 2 / each for count, each in zip(test, expected, strict=True) if count != each
    )
    p_value = math.erfc(math.sqrt(statistic / 2))
    sentence = pool_mix(store, RUN)
    assert bool(sentence) == differs == (p_value < 0.01)
    if differs:
        assert (
            f"differ in their mix of levels (p = {p_value:.2g}): level 1 is 50% of validation and 30% of test." in sentence
        )
        assert "mix of subjects" in sentence


def test_groups_have_a_mark_and_an_interval_for_both_models(store: StudyStore) -> None:
    write(store, (50, 50), (30, 70))
    charts = accuracy_by_group(store, RUN)
    assert set(charts) == {"level", "subject"}
    drawn = charts["level"].render()
    assert "1, step 4: 50.0% (33.2% – 66.8%) of 30 responses" in drawn and "2, base model: 0.0%" in drawn
    assert drawn.count("<path") == 4
    assert "It is worst at level" in charts["level"].caption
