import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.forecast import LIMIT_SECONDS, Compared, fitting_trials, result_line, table
from mathsft.commands.predict import Prediction
from mathsft.config.load import load_settings
from mathsft.data.quickstart import base_model_folder
from mathsft.runs.forecast import StudyTime, footprint
from mathsft.workers.placement import place
from tests.build import make_machine

ROWS = [Compared("fp32", "20 trials and all else", 300.0, 240.0), Compared("fp32", "trials", 200.0, 160.0)]


def test_the_line_has_each_precisions_whole_study_and_null_for_one_that_was_not_run() -> None:
    assert json.loads(result_line({"fp32": ROWS, "bf16": []})) == {"fp32_ratio": 1.25, "bf16_ratio": None}


def test_a_reader_sees_every_prediction_beside_what_was_reached() -> None:
    output = io.StringIO()
    Console(file=output, width=120).print(table(ROWS))
    assert "200 s" in output.getvalue()
    assert "160 s" in output.getvalue()
    assert output.getvalue().count("1.25") == 2


@pytest.mark.parametrize(
    ("trials_seconds", "fitting"),
    [(200.0, 20), (LIMIT_SECONDS - 60.0, 20), (2 * (LIMIT_SECONDS - 60.0), 10), (100 * LIMIT_SECONDS, 0)],
)
def test_trials_are_run_as_far_as_they_fit(trials_seconds: float, fitting: int) -> None:
    loaded = load_settings("quickstart", None, [])
    placement = place(make_machine(), loaded.experiment, Path(), "study")
    hardware = placement.evaluator.settings.hardware
    taken = footprint(loaded.study, loaded.experiment, base_model_folder(), hardware, 1)
    time = StudyTime(start=20.0, trials=trials_seconds, confirm=40.0, horizon=0.0)
    prediction = Prediction(loaded.experiment, placement, time, 100.0, taken, "nothing")
    assert fitting_trials(prediction, 20) == fitting
    slow_to_start = replace(prediction, time=replace(time, start=2.0 * LIMIT_SECONDS))
    assert fitting_trials(slow_to_start, 20) == 0
