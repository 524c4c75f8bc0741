"""Optuna's classes as study files name them: what they cannot do is one clear line, before anything is trained."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import StudyConfig
from mathsft.errors import UserError
from mathsft.study.components import (
    is_complete,
    make_pruner,
    make_sampler,
    make_space,
    num_settings,
    rehearse,
    suggest,
    tell,
)
from mathsft.study.parameters import settings_of, short_names
from tests.study.toys import Driver, Kills, study_config

FLOAT = {"type": "float", "low": 1e-5, "high": 5e-3, "log": True}
GRID = {
    "training.batch_size": {"type": "categorical", "choices": [8, 16]},
    "training.token_budget_tokens": {"type": "int", "low": 64, "high": 65},
}


def config(sampler: str = "TPESampler", pruner: str = "NopPruner", **given: Any) -> StudyConfig:
    sampler_arguments, pruner_arguments = given.pop("sampler_arguments", {}), given.pop("pruner_arguments", {})
    return study_config(
        sampler={"name": sampler, "arguments": sampler_arguments},
        pruner={"name": pruner, "arguments": pruner_arguments},
        **given,
    )


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (config("CmaEsSampler"), r"^sampler\.name: CmaEsSampler is refused: it unpickles"),
        (config("BruteForceSampler"), r"^sampler\.name: BruteForceSampler cannot work on this study: .*step"),
        (config("GridSampler"), r"^sampler\.name: GridSampler is refused: .*choose BruteForceSampler"),
        (config("BestSampler"), r"^sampler\.name: 'BestSampler' is not in Optuna; choose one of .*TPESampler"),
        (config(pruner="BestPruner"), r"^pruner\.name: 'BestPruner' is not in Optuna; choose one of .*PredictedEndPruner"),
        (config(pruner="PredictedEndPruner", pruner_arguments={"top": 2}), r"^pruner\.arguments: .*top 2 .*between 0 and 1"),
        (
            config(pruner="PredictedEndPruner", pruner_arguments={"best": 2}),
            r"^pruner\.arguments: PredictedEndPruner .*best",
        ),
        (config(pruner="PatientPruner", pruner_arguments={"wrapped_pruner": "MedianPruner"}), r"PatientPruner.*patience"),
        (
            config(pruner="PatientPruner", pruner_arguments={"wrapped_pruner": "WilcoxonPrunerr", "patience": 2}),
            r"^pruner\.arguments: wrapped_pruner: 'WilcoxonPrunerr' is not in Optuna",
        ),
    ],
)
def test_what_a_component_cannot_do_is_told_before_the_study(study: StudyConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rehearse(study)


@pytest.mark.parametrize(
    "study",
    [
        config(),
        config("RandomSampler"),
        config("QMCSampler"),
        config("BruteForceSampler", search=GRID),
        config("NSGAIISampler"),
        config(pruner="HyperbandPruner"),
        config(pruner="PercentilePruner", pruner_arguments={"percentile": 75.0}),
        config(pruner="PatientPruner", pruner_arguments={"wrapped_pruner": "MedianPruner", "patience": 2}),
        config(pruner="PredictedEndPruner", pruner_arguments={"top": 0.2, "chance": 0.1, "n_startup_trials": 3}),
    ],
)
def test_what_works_passes(study: StudyConfig) -> None:
    rehearse(study)


def test_a_wrapped_pruner_is_built_from_its_name() -> None:
    study = config(pruner="PatientPruner", pruner_arguments={"wrapped_pruner": "MedianPruner", "patience": 2})
    assert isinstance(make_pruner(study)._wrapped_pruner, optuna.pruners.MedianPruner)  # type: ignore[attr-defined]


def test_the_trials_of_a_study_are_one_sequence_of_a_quasi_random_sampler() -> None:
    """Asked trial by trial, with a sampler made anew each time, it gives what one sampler gives for the whole study."""
    study_file = config("QMCSampler", search={"training.learning_rate": FLOAT})

    def asked(make: Any) -> list[float]:
        study = optuna.create_study()
        rates = []
        for number in range(8):
            study.sampler = make(number)
            trial = study.ask(make_space(study_file))
            rates.append(trial.params["training.learning_rate"])
            study.tell(trial, 0.5)
        return rates

    one = make_sampler(study_file, 0)
    assert asked(lambda number: make_sampler(study_file, number))[1:] == asked(lambda number: one)[1:]


def test_a_sampler_that_has_tried_everything_ends_the_search(tmp_path: Path, experiment: Experiment) -> None:
    study = config("BruteForceSampler", search=GRID, num_trials=20, selection={"num_proposed": 0})
    assert num_settings(study.search) == 4
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study)
    trials = driver.store.runs("trial")
    assert len(trials) == len({frozenset(trial.overrides.items()) for trial in trials}) == 4
    assert {state for _, _, state, _ in driver.optuna_trials()} <= {"COMPLETE", "PRUNED"}
    assert driver.store.promotion() is not None


SAMPLERS: dict[str, dict[str, Any] | None] = {
    "BruteForceSampler": {},
    "CmaEsSampler": None,
    "GPSampler": {"n_startup_trials": 3},
    "GridSampler": None,
    "NSGAIISampler": {},
    "NSGAIIISampler": {},
    "PartialFixedSampler": None,
    "QMCSampler": {},
    "RandomSampler": {},
    "TPESampler": {"n_startup_trials": 3},
}
"""Every sampler of Optuna with arguments for a study of four settings; None where it is refused."""
PRUNERS: dict[str, dict[str, Any] | None] = {
    "HyperbandPruner": {"min_resource": 1, "max_resource": 3},
    "MedianPruner": {"n_startup_trials": 1},
    "NopPruner": {},
    "PatientPruner": {"wrapped_pruner": "MedianPruner", "patience": 1},
    "PercentilePruner": {"percentile": 50.0, "n_startup_trials": 1},
    "SuccessiveHalvingPruner": {"min_resource": 1},
    "ThresholdPruner": {"lower": 0.01},
    "WilcoxonPruner": {},
}
OWN_PRUNERS: dict[str, dict[str, Any] | None] = {"PredictedEndPruner": {"n_startup_trials": 1}}


def test_every_name_of_optuna_is_in_the_tables() -> None:
    def names(module: Any, kind: str) -> set[str]:
        return {name for name in module.__all__ if name.endswith(kind) and not name.startswith("Base")}

    assert names(optuna.samplers, "Sampler") == set(SAMPLERS)
    assert names(optuna.pruners, "Pruner") == set(PRUNERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [*(("sampler", name) for name in SAMPLERS), *(("pruner", name) for name in PRUNERS | OWN_PRUNERS)]
)
def test_every_sampler_and_pruner_runs_a_study_or_is_refused_before_it(
    kind: str, name: str, tmp_path: Path, experiment: Experiment
) -> None:
    arguments = {"sampler": SAMPLERS, "pruner": PRUNERS | OWN_PRUNERS}[kind][name]
    component = {kind: name, f"{kind}_arguments": arguments or {}}
    study = config(**component, search=GRID, num_trials=4)
    if arguments is None:
        with pytest.raises(UserError) as refused:
            rehearse(study)
        assert name in str(refused.value) and "\n" not in str(refused.value)
        return
    rehearse(study)
    driver = Driver(tmp_path / "s", experiment, Kills())
    driver.study(study)
    trials = driver.store.runs("trial")
    assert len(trials) == 4 and {trial.state for trial in trials} <= {"finished", "pruned"}
    assert driver.store.promotion() is not None


BOTH_METHODS = {
    "training.lora.rank": {"type": "categorical", "choices": [4, 16]},
    "training.method": {"type": "categorical", "choices": ["full", "lora"]},
    "training.batch_size": {"type": "categorical", "choices": [8, 16, 32]},
}


@pytest.mark.parametrize("sampler", ["TPESampler", "BruteForceSampler"])
def test_a_setting_is_drawn_only_for_the_trials_to_which_it_applies(sampler: str) -> None:
    study_file = config(sampler, search=BOTH_METHODS, num_trials=9)
    rehearse(study_file)
    study, space = optuna.create_study(sampler=make_sampler(study_file, 0)), make_space(study_file)
    drawn = []
    for number in range(9):
        trial = study.ask()
        assert not is_complete(trial.params, space)
        drawn.append(suggest(trial, space, short_names(space)))
        assert settings_of(space, trial.params) == drawn[-1]
        assert is_complete(drawn[-1], space)
        tell(study, number, number / 9, optuna.trial.TrialState.COMPLETE)
    assert {values["training.method"] for values in drawn} == {"full", "lora"}
    for values in drawn:
        assert ("training.lora.rank" in values) == (values["training.method"] == "lora")
    assert num_settings(study_file.search) == 9
    if sampler == "BruteForceSampler":
        assert len({tuple(sorted(values.items())) for values in drawn}) == 9
