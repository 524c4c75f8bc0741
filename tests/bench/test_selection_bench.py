import asyncio
import json
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.measured_grids import add_step_law, add_tinker
from bench.search_peers import PEERS, tpe, tpe_with_pruner
from bench.selection import OURS, RULES, UNPRUNED, Outcome, Studies, play, result_line, table_of_regrets
from bench.simulated_study import EVAL_POINTS, NUM_TRIALS, SCORE_TIME, simulate_study
from bench.surfaces import BATCH, FAMILIES, MEASURED, RATE
from bench.virtual_time import run_in_virtual_time
from bench.worlds import SEED_SD, World


def test_ratios_are_to_the_better_naive_of_each_family_and_to_the_best_peer() -> None:
    regrets = dict.fromkeys([*RULES, *PEERS], 0.09) | {OURS: 0.02, UNPRUNED: 0.02, "TPE": 0.04, "TPE, more problems": 0.05}
    first = {name: Outcome(regret, 0.01, train_time=10.0) for name, regret in regrets.items()}
    second = first | {OURS: Outcome(0.03, 0.0, train_time=9.0)}
    first[OURS] = Outcome(0.01, 0.002, train_time=6.0, is_covered=True)
    studies = Studies({family: [first, second] for family in FAMILIES})
    line = json.loads(result_line(studies))
    assert line["regret_ratio_smooth"] == line["regret_ratio_rough"] == 0.5
    assert line["regret_ratio_measured"] is None
    assert (line["best_peer"], line["peer_ratio"]) == ("TPE", 0.5)
    assert 0.5 <= line["peer_ratio_upper"] <= 0.75
    assert line["pruner_training_saved"] == 0.25
    assert line["optimism_ratio"] == 0.1
    assert line["coverage"] == 0.5
    assert studies.of(["ridge"]).difference("TPE", OURS) == (pytest.approx(0.02), pytest.approx(0.01))
    assert "| ridge | 2.00 |" in table_of_regrets(studies) and "4.00 (+2.00 ± 1.00)" in table_of_regrets(studies)


def test_a_slow_peer_is_compared_in_the_studies_that_it_played() -> None:
    easy = {name: Outcome(0.01, 0.0) for name in [*RULES, *PEERS]}
    hard = {name: Outcome(0.05, 0.0) for name in [*RULES, *PEERS] if name != "BoTorch"}
    studies = Studies({"ridge": [easy, hard, hard]})
    assert studies.ratio(OURS, ["BoTorch"]).value == 1.0
    assert studies.difference("BoTorch", OURS)[0] == 0.0
    assert studies.regrets(OURS).mean() == pytest.approx(0.11 / 3)


def test_recorded_studies_are_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Namespace(outcomes=tmp_path / "outcomes.jsonl", slow_every=1, steplaw=None, tinker=None, processes=1)
    record = {"family": "ridge", "seed": 0, "outcomes": {OURS: {"regret": 0.02, "optimism": 0.0}}}
    arguments.outcomes.write_text(json.dumps(record) + "\n")
    monkeypatch.setattr("bench.selection.new_executor", lambda num: ThreadPoolExecutor(num))
    monkeypatch.setattr("bench.selection.simulate", lambda study, **more: {OURS: Outcome(study[1] / 100, 0.0)})
    for _ in range(2):
        found = list(play([("ridge", seed) for seed in range(3)], arguments))
        assert [outcomes[OURS].regret for _, outcomes in found] == [0.02, 0.01, 0.02]


@pytest.mark.slow
@pytest.mark.parametrize("num_trainers", [1, 4])
def test_a_simulated_study_depends_on_its_seed_alone_and_costs_what_it_trains_and_scores(num_trainers: int) -> None:
    world = World("quickstart", 3)
    study = simulate_study(world, 3, num_trainers)
    again = simulate_study(World("quickstart", 3), 3, num_trainers)
    assert (again.promotion, again.trials, again.device_time) == (study.promotion, study.trials, study.device_time)
    assert len(study.trials) == NUM_TRIALS and len(study.proposed) == 4
    states = [run.state for run in study.trials.values()]
    assert study.train_time == pytest.approx(sum(1.0 if state == "finished" else 0.5 for state in states), abs=5)
    assert study.train_time < study.device_time <= NUM_TRIALS * (1 + SCORE_TIME * len(EVAL_POINTS)) + SCORE_TIME * 21.25
    assert world.best >= study.checkpoints[study.promotion.run].setting_accuracy


def test_trials_solve_the_share_that_their_surface_says_and_mostly_the_same_problems() -> None:
    world = World("plateau", 0)
    settings = {RATE: 3e-4, BATCH: 32}
    trials = [world.train(number, settings) for number in range(40)]
    mean = sum(trial.accuracy for trial in trials) / len(trials)
    assert mean == pytest.approx(trials[0].setting_accuracy, abs=4 * SEED_SD / 40**0.5)
    first, second = trials[0].confirm, trials[1].confirm
    expected_if_independent = first.mean() * (1 - second.mean()) + second.mean() * (1 - first.mean())
    assert (first != second).mean() < 0.75 * expected_if_independent


def test_curves_rise_to_the_end_and_cross() -> None:
    world = World("quadratic", 1)
    slow, fast = ({RATE: rate, BATCH: 32} for rate in (2e-5, 5e-3))
    shares = [
        np.mean([world.train(number, settings, 0.25).accuracy for number in range(30)]) / world.surface.accuracy(settings)
        for settings in (slow, fast)
    ]
    assert shares[0] < 0.7 * shares[1], "a low rate looks worse early than it is"


@pytest.mark.parametrize("peer", [tpe, tpe_with_pruner])
def test_peers_spend_the_given_device_time(peer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    world, fractions = World("ridge", 2), []
    train = world.train
    monkeypatch.setattr(
        world, "train", lambda number, settings, at=1.0: (fractions.append(at), train(number, settings, at))[1]
    )
    peer(world, 2, 12.0)
    num_begun = max(fractions.count(1.0), fractions.count(EVAL_POINTS[0]))
    assert 12 / (1 + SCORE_TIME * len(EVAL_POINTS)) - 1 < num_begun <= 24


def test_measured_grids_become_surfaces_whose_best_is_a_grid_point(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("bench.surfaces.MEASURED", MEASURED)
    (tmp_path / "data").mkdir()
    rows = [
        f"1,1,{rate},{size},{loss},{loss}"
        for rate, size, loss in ((1e-3, 32, 2.5), (1e-2, 32, 2.6), (1e-3, 64, 2.4), (1e-2, 64, 3))
    ]
    (tmp_path / "data" / "dense_lr_bs_loss.csv").write_text("\n".join(["N,D,lr,bs,loss,smooth loss", *rows]))
    table = "".join(
        f"| {rate} | {rank} | {loss} | 0.5 | 40 |\n"
        for rate in ("1e-04", "1e-03")
        for rank, loss in zip((1, 2, 4, 8, 16, 32), (0.9, 0.8, 0.7, 0.6, 0.7, 2.5), strict=True)
    )
    (tmp_path / "sweep.md").write_text(f"# Sweep\n\n## model\n\n{table}")
    try:
        add_step_law(tmp_path)
        add_tinker(tmp_path / "sweep.md")
        for family, best in (("step law, linear", (1e-3, 64)), ("step law, exponential", (1e-3, 64)), ("tinker", (1e-4, 8))):
            world = World(family, 0)
            assert world.surface.accuracy({RATE: best[0], BATCH: best[1]}) == pytest.approx(world.best)
            worst = {RATE: 1e-2 if family != "tinker" else 1e-3, BATCH: 64 if family != "tinker" else 32}
            assert world.surface.accuracy(worst) < 0.5 * world.best
    finally:
        MEASURED.clear()


def test_virtual_time_jumps_to_the_next_timer_and_refuses_to_wait_for_ever() -> None:
    order: list[str] = []

    async def wait(name: str, seconds: float) -> float:
        await asyncio.sleep(seconds)
        order.append(name)
        return asyncio.get_running_loop().time()

    async def both() -> list[float]:
        return await asyncio.gather(wait("late", 7200.0), wait("early", 3600.0))

    assert run_in_virtual_time(both()) == pytest.approx([7200.0, 3600.0])
    assert order == ["early", "late"]
    with pytest.raises(RuntimeError, match="none of them for a timer"):
        run_in_virtual_time(asyncio.Event().wait())
