import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from bench.forecast import LIMIT_SECONDS, Compared, fitting_trials, result_line, table
from mathsft.accounting.forecast import StudyTime

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
    time = StudyTime(start=20.0, trials=trials_seconds, confirm=40.0, horizon=0.0)
    assert fitting_trials(time, 20) == fitting
    assert fitting_trials(replace(time, start=2.0 * LIMIT_SECONDS), 20) == 0
