"""How runs end: finished, early, pruned, diverged or failed, and what the records then hold; toy workers, real databases."""

import re
from collections import Counter
from pathlib import Path

import optuna
import pytest

from mathsft.accounting.concurrency import concurrency
from mathsft.accounting.ledger import Timekeeper
from mathsft.config.schema import Experiment
from mathsft.errors import StudyFailedError
from mathsft.records import Run
from tests.study.toys import FAILS, Driver, Kills, leaves, study_config

pytestmark = pytest.mark.slow


def test_a_final_run_ends_where_it_gains_little_and_is_a_finished_one(tmp_path: Path, experiment: Experiment) -> None:
    eval_points = [share / 16 for share in range(17)]

    def ended(min_gain: float | None) -> tuple[Run, Driver]:
        driver = Driver(tmp_path / str(min_gain), experiment, Kills())
        config = study_config(final={"num_examples": 512, "eval_points": eval_points, "min_gain": min_gain})
        driver.study(config)
        # Taking turns: what is trained by the time a score comes in does not depend on who is faster.
        return driver.final(config, max_unscored=1), driver

    whole, whole_driver = ended(None)
    assert (whole.state, whole.reason) == ("finished", "")
    # Of 50 problems, two invented ones among them, 0.05 is hardly more than what no change at all leaves open.
    early, driver = ended(0.05)
    steps = [score.step for score in driver.store.scores(early.name, "validation")]
    all_steps = [score.step for score in whole_driver.store.scores(whole.name, "validation")]
    assert early.state == "finished"
    found = re.fullmatch(r"ended early at step (\d+): .* at most 4\.\d points above the mean of the 3 before", early.reason)
    assert found and int(found[1]) == steps[-1]
    assert 6 <= len(steps) < len(all_steps) and steps == all_steps[: len(steps)]
    # The toy gained more than that before the run ended, and would have gained less after it.
    by_step = {score.step: score.accuracy for score in whole_driver.store.scores(whole.name, "validation")}
    best = max(by_step[step] for step in steps)
    assert best - by_step[steps[0]] > 0.05 > max(by_step[step] for step in all_steps[len(steps) :]) - best
    assert {score.step for score in driver.store.scores(early.name, "test")} >= {0, steps[-1]}
    again, _ = ended(0.05)
    assert again == early


def test_baseline_and_last_step_are_scored_and_every_checkpoint_is(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills())
    config = study_config(num_trials=2, final={"num_examples": 256, "eval_points": [0.3, 0.7, 1.0]})
    driver.study(config)
    run = driver.final(config)
    batch_size = run.overrides["training.batch_size"]
    assert isinstance(batch_size, int)
    steps = run.plan.eval_steps(batch_size)
    assert (steps[0], steps[-1], len(steps)) == (0, 256 // batch_size, 4)
    assert tuple(score.step for score in driver.store.scores(run.name, "validation")) == steps
    assert {0, steps[-1]} <= {score.step for score in driver.store.scores(run.name, "test")}


def test_every_result_has_a_stint_and_every_checkpoint_a_wait(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.store.observers.append(Timekeeper(driver.store, 1, 1))
    driver.study(study_config(num_trials=2))
    run = driver.final(study_config())
    worker_calls = driver.store.worker_calls()
    results = [(one.run, one.step, "") for known in driver.store.runs() for one in driver.store.checkpoints(known.name)]
    results += [(score.run, score.step, score.pool) for score in driver.store.scores()]
    assert Counter((call.run, call.step, call.pool) for call in worker_calls) == Counter(results)
    assert {call.worker for call in worker_calls if not call.pool} == {"trainer-0"}
    assert {(call.worker, call.cpus) for call in worker_calls if call.pool} == {("evaluator-0", (1,))}
    found = concurrency(driver.store, [run.name])
    assert found is not None
    assert [wait.step for wait in found.waits] == [score.step for score in driver.store.scores(run.name, "validation")]


def test_failed_trials_do_not_count_and_three_in_a_row_end_the_study(tmp_path: Path, experiment: Experiment) -> None:
    search = {"training.learning_rate": {"type": "categorical", "choices": [FAILS]}}
    driver = Driver(tmp_path / "s", experiment, Kills())
    with pytest.raises(BaseExceptionGroup) as caught:
        driver.study(study_config(search=search))
    [error] = leaves(caught.value)
    assert isinstance(error, StudyFailedError)
    assert "out of luck" in str(error)
    assert {run.state for run in driver.store.runs("trial")} == {"failed"}


@pytest.mark.parametrize(("first_verdict_at", "states"), [(0, {"pruned"}), (1, {"finished"})])
def test_a_verdict_that_comes_when_the_last_part_is_being_trained_prunes_nothing(
    tmp_path: Path, experiment: Experiment, first_verdict_at: int, states: set[str]
) -> None:
    """The pruner stops every trial; of three eval points, training is at the last when the second is judged."""
    arguments = {"lower": 0.999, "n_warmup_steps": first_verdict_at}
    driver = Driver(tmp_path / "s", experiment, Kills())
    rates = {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 5e-3, "log": True}}  # none of them diverges
    driver.study(study_config(num_trials=3, search=rates, pruner={"name": "ThresholdPruner", "arguments": arguments}))
    trials = driver.store.runs("trial")
    assert {trial.state for trial in trials} == states
    assert {state for _, _, state, _ in driver.optuna_trials()} == ({"PRUNED"} if states == {"pruned"} else {"COMPLETE"})
    last_steps = {trial.plan.eval_steps(16)[-1] for trial in trials}
    assert last_steps.isdisjoint(score.step for score in driver.store.scores()) == (states == {"pruned"})


def test_a_diverged_trial_is_finished_with_the_worst_value_and_the_reason(tmp_path: Path, experiment: Experiment) -> None:
    search = {"training.learning_rate": {"type": "categorical", "choices": [9e-3]}}
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(search=search, num_trials=2))
    for trial in driver.store.runs("trial"):
        assert (trial.state, trial.value) == ("diverged", 0.0)
        assert re.fullmatch(r"loss is nan at step \d+", trial.reason)
    trials = optuna.load_study(study_name="toy", storage=driver.layout.database_url).trials
    assert [(trial.state.name, trial.value, trial.user_attrs["state"]) for trial in trials] == [
        ("COMPLETE", 0.0, "diverged")
    ] * 2


def test_after_the_deadline_nothing_new_is_proposed(tmp_path: Path, experiment: Experiment) -> None:
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(max_hours=1e-12))
    assert driver.store.runs("trial") == []
    assert driver.store.run("baseline") is not None


def test_a_planted_bad_trial_is_pruned(tmp_path: Path, experiment: Experiment) -> None:
    """The pruner is armed: after good trials, one with a hopeless learning rate is stopped at its first eval point."""
    by_sampler = {"num_proposed": 0, "round_trials": [], "round_problems": []}
    good = {"training.learning_rate": {"type": "float", "low": 9e-4, "high": 1.1e-3}}
    Driver(tmp_path / "s", experiment, Kills()).study(study_config(search=good, num_trials=4, selection=by_sampler))
    bad = {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1.1e-5}}
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study_config(search=bad, num_trials=5, selection=by_sampler))
    assert driver.store.runs("trial")[-1].state == "pruned"
