"""Who is confirmed and who wins, on planted results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import Choices, FloatRange, SearchRange, SelectionSettings
from mathsft.records import Promotion
from mathsft.runs.contest import Rule
from mathsft.runs.results import TrialResult
from mathsft.statistics.paired import compare
from mathsft.study.choice_notes import runner_up_note
from mathsft.study.decide import Confirm, decide, propose
from tests.build import make_trial

SPACE: dict[str, SearchRange] = {
    "training.learning_rate": FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    "training.batch_size": Choices(type="categorical", choices=(8, 16, 32)),
}
RULE = Rule(SPACE, SelectionSettings(), num_confirm=875)
SEARCH_ALONE = Rule(SPACE, SelectionSettings(round_trials=(), round_problems=()), num_confirm=0)


def solved(share: float, num: int, seed: int) -> tuple[bool, ...]:
    """Return outcomes of which exactly this share is right, different ones for each seed."""
    outcomes = [index < round(share * num) for index in range(num)]
    Random(seed).shuffle(outcomes)
    return tuple(outcomes)


def trial(
    number: int, share: float, rate: float | None = None, batch: int = 16, nll: float | None = None, state: str = "finished"
) -> TrialResult:
    overrides: dict[str, Scalar] = {
        "training.learning_rate": rate or 2e-5 * 1.3**number,
        "training.batch_size": batch,
    }
    run = make_trial(number, overrides, seed=number, state=state, value=share)
    return TrialResult(run, {"search": solved(share, 200, number)}, nll)


def confirmed(
    results: Sequence[TrialResult], rule: Rule, shares: Mapping[int, float] | float
) -> tuple[Promotion, list[Confirm]]:
    """Play the driver: score what is asked for until there is a promotion."""
    asked: list[Confirm] = []
    results = list(results)
    while isinstance(decision := decide(results, rule), Confirm):
        asked.append(decision)
        start, stop = map(int, decision.pool.removeprefix("confirm:").split("-"))
        for index, result in enumerate(results):
            if result.run.name in decision.trials:
                number = result.run.number or 0
                share = shares if isinstance(shares, float) else shares[number]
                outcomes = solved(share, stop - start, number)
                results[index] = replace(result, outcomes={**result.outcomes, decision.pool: outcomes})
    assert decision is not None
    return decision, asked


def hill(num: int = 20) -> list[TrialResult]:
    """Return trials along the learning rate, the best in the middle; trial 0 is the worst of all."""
    return [trial(0, 0.1, 1.1e-5), *(trial(n, 0.5 - 0.03 * abs(n - num // 2)) for n in range(1, num))]


def test_finalists_dwindle_over_fresh_problems_and_trial_0_stays_beside_them() -> None:
    promotion, asked = confirmed(hill(), RULE, {n: 0.5 - 0.03 * abs(n - 10) for n in range(20)})
    assert [each.pool for each in asked] == ["confirm:0-125", "confirm:125-375", "confirm:375-875"]
    assert [len(each.trials) for each in asked] == [9, 5, 3]
    assert all("trial-0" in each.trials for each in asked)
    assert promotion.run in {"trial-9", "trial-10", "trial-11"}
    assert "tuning was worth it: +" in promotion.reason
    assert promotion.evidence["num_problems"] == 875
    assert promotion.evidence["low"] < promotion.evidence["accuracy"] < promotion.evidence["high"]
    assert promotion.evidence["corrected_best_accuracy"] < promotion.evidence["raw_best_accuracy"] == 0.5
    by_name = {finalist.run: finalist.num_responses for finalist in promotion.finalists}
    assert len(by_name) == 9
    assert by_name["trial-0"] == by_name[promotion.run] == 875
    assert sorted(by_name.values()).count(875) == 3


def test_only_what_is_not_yet_scored_is_asked_for() -> None:
    results = hill()
    first = decide(results, RULE)
    assert isinstance(first, Confirm)
    done = first.trials[3]
    results = [
        replace(each, outcomes={**each.outcomes, first.pool: solved(0.4, 125, 0)}) if each.run.name == done else each
        for each in results
    ]
    assert decide(results, RULE) == Confirm(tuple(name for name in first.trials if name != done), first.pool)


@pytest.mark.slow
def test_the_order_of_results_does_not_matter_and_nothing_is_remembered() -> None:
    results = hill()
    assert decide(results, RULE) == decide(results, RULE)
    assert confirmed(results, RULE, 0.4)[0] == confirmed(results[::-1], RULE, 0.4)[0]


@pytest.mark.slow
def test_a_small_confirm_pool_shrinks_the_rounds_in_proportion() -> None:
    _, asked = confirmed(hill(), replace(RULE, num_confirm=70), 0.4)
    assert [each.pool for each in asked] == ["confirm:0-10", "confirm:10-30", "confirm:30-70"]
    _, asked = confirmed(hill(), replace(RULE, num_confirm=5000), 0.4)
    assert asked[-1].pool == "confirm:375-875"


def test_a_lucky_trial_on_the_search_pool_does_not_win_against_what_confirm_says() -> None:
    results = [trial(0, 0.3, 1e-3, 8), trial(1, 0.5, 1e-4, 8), trial(2, 0.45, 1e-4, 32)]
    selection = SelectionSettings(round_trials=(3,), round_problems=(800,))
    promotion, _ = confirmed(results, Rule(SPACE, selection, 800), {0: 0.3, 1: 0.3, 2: 0.5})
    assert promotion.run == "trial-2"


def test_trials_that_cannot_be_told_apart_are_said_so_and_a_proof_is_one() -> None:
    rates = {0: 1e-4, 1: 1e-3}
    results = [trial(n, 0.4, rates[n]) for n in rates]
    tied, _ = confirmed(results, RULE, {0: 0.4, 1: 0.41})
    assert "trials 0 and 1 cannot be told apart on 1,075 problems; 1 promoted: higher smoothed mean" in tied.reason
    assert "the data do not show whether tuning was worth it" in tied.reason
    beaten, _ = confirmed(results, RULE, {0: 0.3, 1: 0.6})
    assert "trial 1 beats trial 0 on 1,075 problems: +" in beaten.reason


def test_an_interval_that_excludes_0_without_proof_is_told_with_its_e_value() -> None:
    first = (True,) * 30 + (False,) * 70
    second = (True,) * 38 + (False,) * 62  # 8 gained, none lost
    note = runner_up_note((1, (True,) * 36 + (False,) * 64), [(0, first)])
    found = compare(first, (True,) * 36 + (False,) * 64)
    assert found.low > 0 and found.e_value < 20
    assert f"repeated ones need an e-value of 20, and it is {found.e_value:.1f}" in note
    assert "beats" in runner_up_note((1, second), [(0, first)])


def test_the_experiments_own_settings_may_win() -> None:
    promotion, _ = confirmed([trial(0, 0.6, 1e-4), trial(1, 0.2, 1e-3)], RULE, {0: 0.6, 1: 0.2})
    assert promotion.run == "trial-0"
    assert "tuning found nothing better" in promotion.reason


def test_replicates_are_one_setting_that_its_earliest_trial_stands_for() -> None:
    lucky = [trial(3, 0.2, 1e-3), trial(4, 0.6, 1e-3), trial(5, 0.2, 1e-3)]
    others = [trial(0, 0.3, 2e-5, 8), trial(1, 0.45, 2e-4, 8), trial(2, 0.45, 5e-4, 8)]
    decision = decide([*others, *lucky], RULE)
    assert isinstance(decision, Confirm)
    assert set(decision.trials) == {"trial-0", "trial-1", "trial-2", "trial-3"}
    # One luck of three does not put the setting before a better mean.
    only_raw = SelectionSettings(num_smoothed=0, num_raw=1)
    decision = decide([*others, *lucky], replace(RULE, selection=only_raw))
    assert isinstance(decision, Confirm)
    assert set(decision.trials) == {"trial-0", "trial-1"}


def test_exact_ties_go_to_the_lower_gold_nll_then_to_the_earlier_trial() -> None:
    equal = [trial(n, 0.4, rate) for n, rate in enumerate((1e-4, 3e-4, 1e-3))]
    assert winner(equal) == "trial-0"
    told_apart = [replace(each, gold_nll=nll) for each, nll in zip(equal, (2.0, 1.0, 1.5), strict=True)]
    assert winner(told_apart) == "trial-1"


def test_without_rounds_the_search_pool_decides_and_its_best_is_corrected() -> None:
    promotion = decide(hill(), SEARCH_ALONE)
    assert isinstance(promotion, Promotion)
    assert promotion.evidence["accuracy"] == promotion.evidence["corrected_best_accuracy"]
    assert "low" not in promotion.evidence


def test_only_trials_that_finished_may_win_and_nobody_where_none_did() -> None:
    lost = [trial(0, 0.9, state="failed"), trial(1, 0.9, state="pruned"), trial(2, 0.0, state="diverged")]
    assert decide(lost, RULE) is None
    assert winner([*lost, trial(3, 0.1)]) == "trial-3"


@pytest.mark.parametrize(
    ("rate", "batch", "note"),
    [
        (1e-2, 16, "training.learning_rate 0.01 is at the upper edge of its searched range: try 0.000316 to 0.316"),
        (1e-3, 8, "training.batch_size 8 is at the lower edge of its searched range: try also 4"),
        (1e-3, 32, "training.batch_size 32 is at the upper edge of its searched range: try also 64"),
    ],
)
def test_a_winner_at_an_edge_is_said_so_with_what_to_try(rate: float, batch: int, note: str) -> None:
    promotion = decide([trial(1, 0.5, rate, batch)], SEARCH_ALONE)
    assert isinstance(promotion, Promotion)
    assert note in promotion.reason


def test_a_winner_inside_its_ranges_is_at_no_edge() -> None:
    promotion = decide([trial(1, 0.5, 1e-3, 16)], SEARCH_ALONE)
    assert isinstance(promotion, Promotion)
    assert "edge" not in promotion.reason


def test_proposals_climb_the_smoothed_surface_and_avoid_what_diverged() -> None:
    rates = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    finished = [
        trial(3 * n + k, share - 0.05 * k, rate, batch)
        for n, (share, rate) in enumerate(zip((0.1, 0.2, 0.3, 0.4, 0.5, 0.5), rates, strict=True))
        for k, batch in enumerate((8, 16, 32))
    ]
    diverged = [trial(20 + batch, 0.0, 8e-3, batch, state="diverged") for batch in (8, 16, 32)]
    proposed = propose([*finished, *diverged], SPACE)
    assert 8e-4 < float(proposed["training.learning_rate"]) < 6e-3
    assert proposed == propose([*diverged, *finished][::-1], SPACE)
    assert float(propose(finished, SPACE)["training.learning_rate"]) > 5e-3
    assert set(propose(diverged, SPACE)) == set(SPACE)  # before any has finished


def winner(results: Sequence[TrialResult]) -> str:
    promotion = decide(results, SEARCH_ALONE)
    assert isinstance(promotion, Promotion)
    return promotion.run
