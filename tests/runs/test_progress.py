"""Following a metrics file while a trainer writes it."""

import json
from dataclasses import asdict
from pathlib import Path

from mathsft.records import StepMetrics
from mathsft.runs.progress import MetricsTail


def line(step: int, seconds: float = 0.1) -> str:
    return json.dumps(asdict(StepMetrics("trial-0", step, 1.0, 1e-3, 0.5, 10, 10, seconds, None))) + "\n"


def test_whole_lines_once_and_a_run_that_begins_anew_tells_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_text(line(1) + line(2)[:20])
    assert [metrics.step for metrics in tail.read()] == [1]
    path.write_text(line(1) + line(2))
    assert [metrics.step for metrics in tail.read()] == [2]
    path.write_text(line(1, 0.123456789))
    assert tail.read() == []
    path.write_text("".join(line(step, 0.123456789) for step in (1, 2, 3)))
    assert [metrics.step for metrics in tail.read()] == [2, 3]
