"""What Optuna's own functions read from a study's database; docs/programs.md shows them."""

from pathlib import Path

import optuna
import pytest

from mathsft.config.schema import Experiment
from mathsft.records import Run
from tests.study.toys import Driver, Kills, study_config

pytestmark = pytest.mark.slow

RATE, SIZE = "training.learning_rate", "training.batch_size"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> tuple[optuna.Study, list[Run]]:
    """The study as Optuna loads it by its name and its file, and the runs that mathsft recorded."""
    folder: Path = tmp_path_factory.mktemp("studies") / "demo"
    driver = Driver(folder, experiment, Kills())
    driver.study(study_config())
    [summary] = optuna.get_all_study_summaries(storage=driver.layout.database_url)
    study = optuna.load_study(study_name=summary.study_name, storage=driver.layout.database_url)
    return study, driver.store.runs("trial")


def test_the_data_frame_has_every_trial_with_its_settings_and_results(studied: tuple[optuna.Study, list[Run]]) -> None:
    study, runs = studied
    frame = study.trials_dataframe()
    assert frame["number"].tolist() == [run.number for run in runs]
    for column, name in (("params_learning_rate", RATE), ("params_batch_size", SIZE)):
        assert frame[column].tolist() == [run.overrides[name] for run in runs]
    accuracies = [run.value for run in runs if run.state in ("finished", "diverged")]
    assert frame[frame["state"] == "COMPLETE"]["value_accuracy"].tolist() == accuracies
    assert frame["user_attrs_state"].tolist() == [run.state for run in runs]
    shown = frame[frame["user_attrs_state"] == "finished"]
    assert (shown["user_attrs_interval_low"] <= shown["value_accuracy"]).all()


def test_the_best_trial_and_the_importances_are_optunas(studied: tuple[optuna.Study, list[Run]]) -> None:
    study, runs = studied
    assert study.best_value == max(run.value or 0.0 for run in runs)
    assert set(optuna.importance.get_param_importances(study)) == {"learning_rate", "batch_size"}
    finished = [trial for trial in study.trials if runs[trial.number].state == "finished"]
    assert {tuple(trial.intermediate_values) for trial in finished} == {(0, 1, 2)}, "an accuracy at each eval point"
    assert [trial.intermediate_values[2] for trial in finished] == [trial.value for trial in finished]


@pytest.mark.parametrize(
    "name",
    ["optimization_history", "intermediate_values", "slice", "contour", "parallel_coordinate", "timeline", "edf", "rank"],
)
def test_optunas_plots_show_the_study(name: str, studied: tuple[optuna.Study, list[Run]]) -> None:
    pytest.importorskip("plotly", reason="plotly is the extra [plots]")
    study, runs = studied
    figure = getattr(optuna.visualization, f"plot_{name}")(study)
    assert figure.data
    if name == "optimization_history":
        assert len(figure.data[0].y) == sum(run.state in ("finished", "diverged") for run in runs)
