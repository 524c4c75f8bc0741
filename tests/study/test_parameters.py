from pathlib import Path

import pytest

import mathsft.study.search as search
from mathsft.config.schema import Experiment
from mathsft.study.parameters import parameter_names, settings_of, short_names
from tests.study.toys import Driver, Kills, study_config

SEARCHED = ["training.learning_rate", "training.seed", "data.seed"]


def test_a_parameter_has_the_last_word_of_its_setting_where_it_is_the_only_one() -> None:
    short = dict(zip(SEARCHED, ["learning_rate", "training.seed", "data.seed"], strict=True))
    assert short_names(SEARCHED) == parameter_names(SEARCHED, ()) == parameter_names(SEARCHED, {"learning_rate"}) == short
    assert parameter_names(SEARCHED, set(short.values())) == short
    assert parameter_names(SEARCHED, {"training.learning_rate"}) == {setting: setting for setting in SEARCHED}
    assert settings_of(SEARCHED, {"learning_rate": 1, "data.seed": 2}) == {"training.learning_rate": 1, "data.seed": 2}
    assert settings_of(SEARCHED, {"training.learning_rate": 1}) == {"training.learning_rate": 1}


def test_a_study_that_began_with_dotted_names_keeps_them(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(search, "parameter_names", lambda space, _: {name: name for name in space})
        Driver(tmp_path / "s", experiment, Kills()).study(study_config(num_trials=3))
    resumed = Driver(tmp_path / "s", experiment, Kills())
    resumed.study(study_config(num_trials=5))
    params = [params for _, params, _, _ in resumed.optuna_trials()]
    assert len(params) == 5 and params == [trial.overrides for trial in resumed.store.runs("trial")]
    fresh = Driver(tmp_path / "t", experiment, Kills())
    fresh.study(study_config(num_trials=3))
    assert {name for _, params, _, _ in fresh.optuna_trials() for name in params} == {"learning_rate", "batch_size"}
