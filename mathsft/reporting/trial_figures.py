"""Draws the report's figures of a study's trials: their accuracies with intervals, and a map by two settings."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from mathsft.objective import accuracy_interval
from mathsft.records import Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.figures import AMBER, BLUE, GREY, RED, accuracy_axis
from mathsft.reporting.svg import PAPER, Axis, Chart, Shape

LOW_COLOR, HIGH_COLOR = (214, 226, 240), (8, 48, 107)
X_SETTING, Y_SETTING = "training.learning_rate", "training.batch_size"
MAX_MARKS = 6
LOG_RATIO = 4
"""An axis whose ends differ by more than this factor is logarithmic."""
MOST_INTERVALS = 40
"""More trials than this do not fit side by side into a figure: only the best are drawn."""

SHAPES: Mapping[str, Shape] = {
    "finished": "dot",
    "pruned": "triangle",
    "diverged": "cross",
    "failed": "cross",
    "running": "dot",
}


def trial_intervals(trials: Sequence[Run], last: Mapping[str, Score], base: Score | None, promoted: str) -> Chart | None:
    """Return a chart of the trials' last accuracies with 95 % intervals, best first; None if fewer than two have a score.

    `last` has each trial's last score by run; `base` is the base model's score on the same problems.
    """
    scored = sorted((trial for trial in trials if trial.name in last), key=lambda trial: -last[trial.name].accuracy)
    if len(scored) < 2:
        return None
    shown = scored[:MOST_INTERVALS]
    intervals = [accuracy_interval(last[trial.name]) for trial in shown]
    first = last[shown[0].name]
    chart = Chart(
        "Accuracy of each trial",
        Axis.of_names("trial, the most accurate first", [str(trial.number) for trial in shown]),
        accuracy_axis(max(interval.high for interval in intervals)),
        f"on {first.num_problems:,} problems of the pool {first.pool}, with 95 % intervals",
    )
    if base is not None:
        ends = (chart.x.low, chart.x.high)
        chart.line([(end, base.accuracy) for end in ends], GREY, f"base model {base.accuracy:.1%}", dashes="6 4")
    named: set[str] = set()
    for place, (trial, interval) in enumerate(zip(shown, intervals, strict=True)):
        kind = "promoted" if trial.name == promoted else trial.state
        color = {"promoted": AMBER, "finished": BLUE}.get(kind, GREY)
        accuracy = last[trial.name].accuracy
        note = f"{trial.name}, {trial.state}: {markdown.accuracy(last[trial.name])}; {markdown.settings(trial.overrides)}"
        chart.interval(place, interval.low, interval.high, color)
        chart.mark(place, accuracy, color, note, SHAPES[trial.state], 5, label="" if kind in named else kind)
        named.add(kind)
    overlapping = sum(interval.high >= intervals[0].low for interval in intervals[1:])
    more = f" The {len(scored) - len(shown)} least accurate trials are not drawn." if len(scored) > len(shown) else ""
    chart.caption = (
        f"The intervals of {overlapping} of {len(shown) - 1} other trials reach into that of the best, {shown[0].name}: the "
        f"search alone does not prove which of them is better.{more}"
    )
    return chart


def study_map(trials: Sequence[Run], last: Mapping[str, Score], promoted: str) -> Chart | None:
    """Return a chart of the trials by learning rate and batch size; a darker mark is more accurate. None without a score.

    `last` has each trial's last score by run. Trials that do not override both settings are left out.
    """
    placed = [trial for trial in trials if is_placed(trial)]
    values = [last[trial.name].accuracy for trial in placed if trial.name in last]
    if not values:
        return None
    chart = Chart(
        "Trials by learning rate and batch size",
        _setting_axis("learning rate", [_number(trial, X_SETTING) for trial in placed], "{:.0e}"),
        _setting_axis("batch size in sequences", [_number(trial, Y_SETTING) for trial in placed], "{:g}"),
        f"accuracy at a trial's last score, from {min(values):.1%} (light) to {max(values):.1%} (dark)",
    )

    def described(trial: Run) -> tuple[str, str]:
        if trial.name not in last:
            return PAPER, "no score"
        return shade(last[trial.name].accuracy, min(values), max(values)), markdown.accuracy(last[trial.name])

    draw_trials(chart, placed, promoted, described)
    # The best trials come first: a label that would cover an earlier one is left out.
    for trial in sorted((trial for trial in placed if trial.name in last), key=lambda trial: -last[trial.name].accuracy):
        accuracy = f"{last[trial.name].accuracy:.1%}"
        chart.text(_number(trial, X_SETTING), _number(trial, Y_SETTING), accuracy, above=13)
    states = [trial.state for trial in placed]
    counts = ", ".join(f"{states.count(state)} {state}" for state in SHAPES if state in states)
    best = max((trial for trial in placed if trial.name in last), key=lambda trial: last[trial.name].accuracy)
    chart.caption = (
        f"Every trial has one mark ({counts}). The most accurate one is {best.name} ({markdown.settings(best.overrides)}). "
        "A pruned trial's colour is its accuracy when it was stopped."
    )
    return chart


def draw_trials(chart: Chart, trials: Sequence[Run], promoted: str, described: Callable[[Run], tuple[str, str]]) -> None:
    """Draw a mark for each trial: its shape is the trial's state, `described` gives its colour and note.

    Trials with the same settings are drawn side by side.
    """
    named: set[str] = set()

    def where(trial: Run) -> tuple[float, float]:
        return _number(trial, X_SETTING), _number(trial, Y_SETTING)

    for (x, y), together in groupby(sorted(trials, key=where), key=where):
        group = list(together)
        for index, trial in enumerate(group):
            kind = "promoted" if trial.name == promoted else trial.state
            color, note = described(trial)
            shape = SHAPES[trial.state]
            ring = AMBER if kind == "promoted" else PAPER if shape == "dot" and color != PAPER else RED
            if shape == "cross":
                color = RED if trial.state == "diverged" else GREY
            label = "" if kind in named else kind
            beside = chart.x.moved(x, 0.02 * (index - (len(group) - 1) / 2))
            radius = 9 if kind == "promoted" else 7
            chart.mark(beside, y, color, f"{trial.name}: {note}, {trial.state}", shape, radius, ring, label)
            named.add(kind)


def shade(value: float, low: float, high: float) -> str:
    """Return the colour of a value between low (light) and high (dark)."""
    share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 1.0
    channels = (round(light + share * (dark - light)) for light, dark in zip(LOW_COLOR, HIGH_COLOR, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def is_placed(trial: Run) -> bool:
    """Return whether a trial overrides learning rate and batch size with numbers."""
    return all(isinstance(trial.overrides.get(name), int | float) for name in (X_SETTING, Y_SETTING))


def _setting_axis(label: str, values: Sequence[float], form: str) -> Axis:
    """Return an axis with a margin around the values; up to MAX_MARKS different integers get a tick each."""
    low, high = min(values), max(values)
    distinct = sorted(set(values))
    marks = tuple(distinct) if len(distinct) <= MAX_MARKS and all(value.is_integer() for value in distinct) else ()
    if low > 0 and (high / low > LOG_RATIO or low == high):
        factor = max((high / low) ** 0.08, 1.2)
        return Axis(f"{label} (log scale)", low / factor, high * factor, log=True, form=form.format, marks=marks)
    margin = (high - low) * 0.1 or 1.0
    return Axis(label, low - margin, high + margin, form=form.format, marks=marks)


def _number(trial: Run, name: str) -> float:
    return float(trial.overrides[name])
