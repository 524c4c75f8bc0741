"""A study with several trainers can be computed again: every ask and every verdict from the trials that it saw."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import PartialFixedSampler
from optuna.trial import FrozenTrial, TrialState

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig
from mathsft.records import Ask, PruneVerdict
from mathsft.runs.results import recorded_results
from mathsft.store.study_store import StudyStore
from mathsft.study.components import make_pruner, make_sampler, make_space
from mathsft.study.decide import propose
from mathsft.study.parameters import short_names
from tests.study.toys import Driver, KilledError, Kills, leaves, study_config

SETTINGS: dict[str, Any] = {
    "num_trials": 14,
    "selection": {"num_proposed": 4, "num_smoothed": 1, "num_raw": 1, "round_trials": [2], "round_problems": [50]},
}
CONFIG = study_config(**SETTINGS)
OWN_PRUNER = study_config(**SETTINGS, pruner={"name": "PredictedEndPruner", "arguments": {"n_startup_trials": 2}})


def view(trials: list[FrozenTrial], told: tuple[int, ...], config: StudyConfig, number: int) -> optuna.Study:
    """Return a study in memory that has the first trials, those told as they ended and the others as running."""
    study = optuna.create_study(direction="maximize", sampler=make_sampler(config, number), pruner=make_pruner(config))
    for trial in trials[:number]:
        has_ended = trial.number in told
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state if has_ended else TrialState.RUNNING,
                value=trial.value if has_ended else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values if has_ended else {},
            )
        )
    return study


def asked_again(ask: Ask, store: StudyStore, trials: list[FrozenTrial], config: StudyConfig) -> dict[str, Any]:
    study, names = view(trials, ask.told, config, ask.number), short_names(config.search)
    if ask.number >= config.num_trials - config.selection.num_proposed:
        before = [result for result in recorded_results(store) if result.number < ask.number]
        known = [result for result in before if result.number in ask.told]
        pending = [result.run.overrides for result in before if result.number not in ask.told]
        if fixed := propose(known, config.search, pending):
            study.sampler = PartialFixedSampler({names[name]: value for name, value in fixed.items()}, study.sampler)
    return study.ask({names[name]: given for name, given in make_space(config).items()}).params


def judged_again(verdict: PruneVerdict, trials: list[FrozenTrial], config: StudyConfig) -> bool:
    number = int(verdict.run.removeprefix("trial-"))
    study = view(trials, verdict.told, config, number)
    study.sampler = PartialFixedSampler(trials[number].params, study.sampler)  # a proposal's were not drawn
    trial = study.ask(trials[number].distributions)
    for later in trials[number + 1 :]:
        if later.number in verdict.told:
            study.add_trial(later)
    for index in range(verdict.index + 1):
        trial.report(trials[number].intermediate_values[index], index)
    return trial.should_prune()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kills"), [(CONFIG, ()), (CONFIG, (9, 21, 30)), (CONFIG, (4, 6, 8, 14)), (OWN_PRUNER, (9, 21, 30))]
)
def test_an_interrupted_study_with_three_trainers_is_computed_again_from_its_records(
    tmp_path: Path, experiment: Experiment, config: StudyConfig, kills: tuple[int, ...]
) -> None:
    for after in kills:
        with pytest.raises(BaseException) as caught:
            Driver(tmp_path / "s", experiment, Kills(after), num_trainers=3).study(config)
        assert any(isinstance(leaf, KilledError) for leaf in leaves(caught.value))
    driver = Driver(tmp_path / "s", experiment, Kills(), num_trainers=3)
    driver.study(config)

    trials = optuna.load_study(study_name="toy", storage=driver.layout.database_url).trials
    asks, verdicts = driver.store.asks(), driver.store.prune_verdicts()
    assert [ask.number for ask in asks] == list(range(len(trials))) and len(trials) == config.num_trials
    assert any(verdict.is_pruned for verdict in verdicts)
    assert any(set(ask.told) != set(range(ask.number)) for ask in asks), "trainers work side by side"
    for ask in asks:
        assert asked_again(ask, driver.store, trials, config) == trials[ask.number].params
    for verdict in verdicts:
        assert judged_again(verdict, trials, config) == verdict.is_pruned


@pytest.mark.slow
def test_a_resumed_study_keeps_the_verdicts_that_it_gave(tmp_path: Path, experiment: Experiment) -> None:
    with pytest.raises(BaseException) as caught:
        Driver(tmp_path / "s", experiment, Kills(25), num_trainers=3).study(CONFIG)
    assert any(isinstance(leaf, KilledError) for leaf in leaves(caught.value))
    before = Driver(tmp_path / "s", experiment, Kills(), num_trainers=3)
    given = before.store.prune_verdicts()
    assert given
    before.study(CONFIG)
    assert set(given) <= set(before.store.prune_verdicts())


@pytest.mark.slow
def test_proposals_of_a_study_differ(tmp_path: Path, experiment: Experiment) -> None:
    for num_trainers in (1, 3):
        driver = Driver(tmp_path / str(num_trainers), experiment, Kills(), num_trainers=num_trainers)
        driver.study(CONFIG)
        settings = [tuple(sorted(run.overrides.items())) for run in driver.store.runs("trial")]
        assert len(set(settings)) == len(settings)
