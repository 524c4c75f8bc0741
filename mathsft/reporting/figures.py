"""Draws the report's figures as SVG: a final run by step, the trials by two settings, and the workers' time by activity."""

import math
from collections.abc import Sequence
from statistics import fmean

from mathsft.accounting.ledger import IDLE, Ledger
from mathsft.objective import accuracy_interval
from mathsft.records import Run, Score, StepMetrics
from mathsft.reporting import markdown
from mathsft.reporting.svg import GRID, PAPER, Axis, Chart

BLUE, GREY, RED, AMBER = "#2563a8", "#8491a0", "#c0392b", "#f0a202"
CATEGORY_COLORS = {"correct": BLUE, "wrong_answer": AMBER, "format_failure": RED, "ungraded": GREY}
ACTIVITY_COLORS = ("#9dc3e6", "#f7d488", "#a8d5ba", "#e6b8c2", "#c9b8e6")
NAMED_SHARE = 0.08
"""A part of a bar with a larger share than this has room for its name."""
LOW_COLOR, HIGH_COLOR = (214, 226, 240), (8, 48, 107)
X_SETTING, Y_SETTING = "training.learning_rate", "training.batch_size"
MAX_MARKS = 6
LOG_RATIO = 4
"""An axis whose ends differ by more than this factor is logarithmic."""
SMOOTHED_SHARE = 0.05
"""A point of the smoothed loss is the mean of this share of the run's steps."""


def accuracy_curve(run: Run, scores: Sequence[Score]) -> str | None:
    """Return an SVG of a run's accuracy by step with 95 % intervals and the base model's level.

    The scores are from one pool, in the order of their steps; a score at step 0 is the base model's. Returns None for fewer
    than two scores.
    """
    if len(scores) < 2:
        return None
    intervals = [accuracy_interval(score) for score in scores]
    steps = [score.step for score in scores]
    top = min(1.0, max(interval.high for interval in intervals) * 1.08)
    chart = Chart(
        f"{run.name}: accuracy by optimizer step",
        Axis("optimizer step", steps[0], steps[-1]),
        Axis("accuracy", 0.0, top, form="{:.0%}".format if top > 0.06 else "{:.1%}".format),
        f"on {scores[0].num_problems:,} problems of the pool {scores[0].pool}",
    )
    lower, upper = (
        [(step, getattr(interval, end)) for step, interval in zip(steps, intervals, strict=True)] for end in ("low", "high")
    )
    chart.band(lower, upper, BLUE, "95 % interval")
    if scores[0].step == 0:
        level = scores[0].accuracy
        chart.line([(steps[0], level), (steps[-1], level)], GREY, f"base model {level:.1%}", dashes="6 4")
    chart.line([(score.step, score.accuracy) for score in scores], BLUE, "accuracy")
    for score in scores:
        chart.dot(score.step, score.accuracy, BLUE, f"step {score.step}: {markdown.accuracy(score)}")
    best = max(scores, key=lambda score: (score.accuracy, -score.step))
    chart.text(best.step, best.accuracy, f"{best.accuracy:.1%}")
    return chart.render()


def category_shares(run: Run, scores: Sequence[Score]) -> str | None:
    """Return an SVG of the shares of a run's response categories by step, stacked; None for fewer than two scores."""
    if len(scores) < 2:
        return None
    steps = [score.step for score in scores]
    chart = Chart(
        f"{run.name}: categories of the responses",
        Axis("optimizer step", steps[0], steps[-1]),
        Axis("share of responses", 0.0, 1.0, form="{:.0%}".format),
        f"on {scores[0].num_problems:,} problems of the pool {scores[0].pool}",
    )
    lower = [0.0] * len(scores)
    for category, color in CATEGORY_COLORS.items():
        counts = [score.counts.get(category, 0) for score in scores]
        if any(counts):
            totals = [sum(score.counts.values()) for score in scores]
            upper = [below + count / total for below, count, total in zip(lower, counts, totals, strict=True)]
            chart.band(_points(steps, lower), _points(steps, upper), color, category.replace("_", " "), opacity=0.75)
            lower = upper
    return chart.render()


def loss_curve(run: Run, metrics: Sequence[StepMetrics]) -> str | None:
    """Return an SVG of a run's training loss by step, raw and smoothed; None for fewer than two steps."""
    losses = [step.loss for step in metrics]
    window = max(1, round(len(losses) * SMOOTHED_SHARE))
    smoothed = [fmean(losses[max(0, index - window + 1) : index + 1]) for index in range(len(losses))]
    name = f"{run.name}: training loss by optimizer step"
    chart = _step_chart(name, metrics, "nats per response token", losses)
    if chart is None:
        return None
    steps = [step.step for step in metrics]
    chart.line(_points(steps, losses), GREY, "one step", width=1)
    chart.line(_points(steps, smoothed), BLUE, f"mean of {window} steps")
    return chart.render()


def learning_rate_curve(run: Run, metrics: Sequence[StepMetrics]) -> str | None:
    """Return an SVG of a run's learning rate by step; None for fewer than two steps."""
    rates = [step.learning_rate for step in metrics]
    chart = _step_chart(f"{run.name}: learning rate by optimizer step", metrics, "learning rate", rates)
    if chart is None:
        return None
    chart.line(_points([step.step for step in metrics], rates), BLUE)
    return chart.render()


def _step_chart(title: str, metrics: Sequence[StepMetrics], label: str, values: Sequence[float]) -> Chart | None:
    if len(metrics) < 2 or not all(map(math.isfinite, values)) or max(values) <= 0:
        return None
    first, last = metrics[0].step, metrics[-1].step
    vertical = Axis(label, 0.0, max(values) * 1.05)
    return Chart(title, Axis("optimizer step", first, last), vertical, f"steps {first:,} to {last:,}")


def _points(steps: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in zip(steps, values, strict=True)]


def study_map(trials: Sequence[Run]) -> str | None:
    """Return an SVG of the trials by learning rate and batch size; a darker dot is more accurate. None without a score.

    Trials that do not override both settings are left out.
    """
    placed = [trial for trial in trials if _is_number(trial, X_SETTING) and _is_number(trial, Y_SETTING)]
    values = [trial.value for trial in placed if trial.value is not None]
    if not values:
        return None
    finished = [trial for trial in placed if trial.state == "finished"]
    best = max(finished, key=lambda trial: trial.value or 0.0, default=None)
    chart = Chart(
        "Trials by learning rate and batch size",
        _setting_axis("learning rate", [_number(trial, X_SETTING) for trial in placed], "{:.0e}"),
        _setting_axis("batch size", [_number(trial, Y_SETTING) for trial in placed], "{:g}"),
        f"accuracy at a trial's last score, from {min(values):.1%} (light) to {max(values):.1%} (dark)",
    )
    groups = {
        "failed": [trial for trial in placed if trial.state == "failed"],
        "pruned or diverged": [trial for trial in placed if trial.state in ("pruned", "diverged")],
        "finished": [trial for trial in finished if trial is not best],
        f"best, {best.name if best else ''}": [best] if best else [],
    }
    rings = (RED, RED, PAPER, AMBER)
    for (label, group), ring in zip(groups.items(), rings, strict=True):
        radius = 9 if ring in (PAPER, AMBER) else 6
        for index, trial in enumerate(group):
            where = (_number(trial, X_SETTING), _number(trial, Y_SETTING))
            shown = "no score" if trial.value is None else f"{trial.value:.1%}"
            color = PAPER if trial.value is None else shade(trial.value, min(values), max(values))
            chart.dot(*where, color, f"{trial.name}: {shown}, {trial.state}", radius, ring, "" if index else label)
    # The best trials come first: a label that would cover an earlier one is left out.
    for trial in sorted(finished, key=lambda trial: -(trial.value or 0.0)):
        chart.text(_number(trial, X_SETTING), _number(trial, Y_SETTING), f"{trial.value or 0.0:.1%}", above=13)
    return chart.render()


def _setting_axis(label: str, values: Sequence[float], form: str) -> Axis:
    """Return an axis with a margin around the values; up to MAX_MARKS different integers get a tick each."""
    low, high = min(values), max(values)
    distinct = sorted(set(values))
    marks = tuple(distinct) if len(distinct) <= MAX_MARKS and all(value.is_integer() for value in distinct) else ()
    if low > 0 and (high / low > LOG_RATIO or low == high):
        factor = max((high / low) ** 0.08, 1.2)
        return Axis(label, low / factor, high * factor, log=True, form=form.format, marks=marks)
    margin = (high - low) * 0.1 or 1.0
    return Axis(label, low - margin, high + margin, form=form.format, marks=marks)


def shade(value: float, low: float, high: float) -> str:
    """Return the colour of a value between low (light) and high (dark)."""
    share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 1.0
    channels = (round(light + share * (dark - light)) for light, dark in zip(LOW_COLOR, HIGH_COLOR, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _is_number(trial: Run, name: str) -> bool:
    return isinstance(trial.overrides.get(name), int | float)


def _number(trial: Run, name: str) -> float:
    return float(trial.overrides[name])


def ledger_bars(ledger: Ledger) -> str | None:
    """Return an SVG of the time of each kind of worker by activity, idle last; None if no worker was held."""
    worker_times = [account for account in ledger.worker_times if account.held_seconds]
    if not worker_times:
        return None
    chart = Chart(
        "The workers' time by activity",
        Axis("minutes", 0.0, max(account.held_seconds for account in worker_times) / 60),
        Axis("", 0.0, float(len(worker_times)), form=lambda _: "", marks=(0.0,)),
        "each bar is the time that one kind of worker was held; hover to see shares",
    )
    for place, account in enumerate(reversed(worker_times)):
        start = 0.0
        for index, (activity, seconds) in enumerate(account.seconds.items()):
            color = GRID if activity == IDLE else ACTIVITY_COLORS[index % len(ACTIVITY_COLORS)]
            note = f"{activity}: {seconds:,.1f} s ({seconds / account.held_seconds:.1%})"
            chart.cell(start, start + seconds / 60, place + 0.25, place + 0.7, color, note)
            if seconds > NAMED_SHARE * account.held_seconds:
                chart.text(start + seconds / 120, place + 0.47, activity, above=-4)
            start += seconds / 60
        chart.text(chart.x.high / 2, place + 0.75, account.worker, above=2)
    return chart.render()
