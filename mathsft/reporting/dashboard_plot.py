"""Makes the plot of a study's front page in optuna-dashboard: accuracy by trial with 95 % intervals, by Plotly's schema."""

from typing import Any

from mathsft.objective import accuracy_interval
from mathsft.records import Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.figures import AMBER, BLUE, GREY, RED
from mathsft.reporting.study_section import base_score, last_scores
from mathsft.statistics.intervals import Interval
from mathsft.store.study_store import StudyStore

SYMBOLS = {"promoted": "star", "finished": "circle", "pruned": "triangle-up", "diverged": "x"}
COLORS = {"promoted": AMBER, "finished": BLUE, "pruned": GREY, "diverged": RED}


def accuracy_plot(store: StudyStore) -> dict[str, Any] | None:
    """Return a plot of each trial's last accuracy with its interval, and the base model's level; None without a score."""
    trials, promotion = store.runs("trial"), store.promotion()
    last = last_scores(store, trials)
    if not last:
        return None
    kinds: dict[str, list[Run]] = {kind: [] for kind in SYMBOLS}
    for trial in trials:
        kind = "promoted" if promotion is not None and promotion.run == trial.name else trial.state
        if kind == "diverged" or (trial.name in last and kind in kinds):
            kinds[kind].append(trial)
    first = next(iter(last.values()))
    data = [_trace(kind, group, last) for kind, group in kinds.items() if group]
    shapes = []
    if (base := base_score(store, first.pool)) is not None:
        level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": base.accuracy, "y1": base.accuracy}
        name = {"text": f"base model {base.accuracy:.1%}", "textposition": "end"}
        shapes = [{**level, "line": {"color": GREY, "dash": "dash"}, "label": name}]
    return {
        "data": data,
        "layout": {
            "title": {"text": f"Accuracy on {first.num_problems:,} {first.pool} problems, with 95 % intervals"},
            "xaxis": {"title": {"text": "trial"}},
            "yaxis": {"title": {"text": "accuracy"}, "tickformat": ".0%", "rangemode": "tozero"},
            "shapes": shapes,
        },
    }


def _trace(kind: str, trials: list[Run], last: dict[str, Score]) -> dict[str, Any]:
    measured = [_measured(None if kind == "diverged" else last[trial.name]) for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind,
        "x": [trial.number for trial in trials],
        "y": [accuracy for accuracy, _ in measured],
        "text": [f"{trial.name}: {markdown.settings(trial.overrides)}" for trial in trials],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [interval.high - accuracy for accuracy, interval in measured],
            "arrayminus": [accuracy - interval.low for accuracy, interval in measured],
        },
        "marker": {"symbol": SYMBOLS[kind], "color": COLORS[kind], "size": 12 if kind == "promoted" else 9},
    }


def _measured(score: Score | None) -> tuple[float, Interval]:
    """Return accuracy and interval of a score; without one both are 0, the result of a diverged trial."""
    return (0.0, Interval(0.0, 0.0)) if score is None else (score.accuracy, accuracy_interval(score))
