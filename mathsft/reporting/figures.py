"""Draws the report's figures of a final run by step, and of the workers' time by activity."""

import math
from collections.abc import Sequence
from statistics import fmean

from mathsft.accounting.ledger import IDLE, Ledger
from mathsft.objective import accuracy_interval
from mathsft.records import Run, Score, StepMetrics
from mathsft.reporting import markdown
from mathsft.reporting.svg import BAR_INK, GRID, Axis, Chart

BLUE, GREY, RED, AMBER = "#2563a8", "#8491a0", "#c0392b", "#f0a202"
CATEGORY_COLORS = {"correct": BLUE, "wrong_answer": AMBER, "format_failure": RED, "ungraded": GREY}
ACTIVITY_COLORS = ("#9dc3e6", "#f7d488", "#a8d5ba", "#e6b8c2", "#c9b8e6", "#d9c7a3", "#b5d3d6", "#e0a899")
NAMED_SHARE = 0.08
"""A part of a bar with a larger share than this has room for its name."""
SMOOTHED_SHARE = 0.05
"""A point of the smoothed loss is the mean of this share of the run's steps."""


def accuracy_curve(run: Run, scores: Sequence[Score]) -> Chart | None:
    """Return a chart of a run's accuracy by step with 95 % intervals and the base model's level.

    The scores are from one pool, in the order of their steps; a score at step 0 is the base model's. Returns None for fewer
    than two scores.
    """
    if len(scores) < 2:
        return None
    intervals = [accuracy_interval(score) for score in scores]
    steps = [score.step for score in scores]
    margin = (steps[-1] - steps[0]) * 0.03
    chart = Chart(
        f"{run.name}: accuracy by optimizer step",
        Axis("optimizer step", steps[0] - margin, steps[-1] + margin),
        accuracy_axis(max(interval.high for interval in intervals)),
        f"on {scores[0].num_problems:,} problems of the pool {scores[0].pool}",
    )
    if scores[0].step == 0:
        level = scores[0].accuracy
        chart.line([(chart.x.low, level), (chart.x.high, level)], GREY, f"base model {level:.1%}", dashes="6 4")
    chart.line([(score.step, score.accuracy) for score in scores], BLUE, "accuracy")
    for place, (score, interval) in enumerate(zip(scores, intervals, strict=True)):
        chart.interval(score.step, interval.low, interval.high, BLUE, "" if place else "95 % interval")
        chart.mark(score.step, score.accuracy, BLUE, f"step {score.step}: {markdown.accuracy(score)}")
    best = max(scores, key=lambda score: (score.accuracy, -score.step))
    chart.text(best.step, accuracy_interval(best).high, f"{best.accuracy:.1%}", above=6)
    chart.caption = (
        f"The accuracy goes from {scores[0].accuracy:.1%} at step {scores[0].step} to {scores[-1].accuracy:.1%} at step "
        f"{scores[-1].step}; the best checkpoint is step {best.step}. Bars are 95 % intervals. All checkpoints solve the "
        "same problems, so that differences between them are surer than the bars suggest."
    )
    return chart


def accuracy_axis(highest: float) -> Axis:
    """Return an axis of accuracies from 0 to a little above the highest one."""
    top = min(1.0, highest * 1.08) or 1.0
    return Axis("accuracy", 0.0, top, form="{:.0%}".format if top > 0.06 else "{:.1%}".format)


def category_shares(run: Run, scores: Sequence[Score]) -> Chart | None:
    """Return a chart of the shares of a run's response categories, a stacked bar per score; None for fewer than two."""
    if len(scores) < 2:
        return None
    chart = Chart(
        f"{run.name}: categories of the responses",
        Axis.of_names("optimizer step", [str(score.step) for score in scores]),
        Axis("share of responses", 0.0, 1.0, form="{:.0%}".format),
        f"on {scores[0].num_problems:,} problems of the pool {scores[0].pool}",
    )
    lower = [0.0] * len(scores)
    for category, color in CATEGORY_COLORS.items():
        name, is_named = category.replace("_", " "), False
        for place, score in enumerate(scores):
            if count := score.counts.get(category, 0):
                share = count / sum(score.counts.values())
                note = f"step {score.step}: {name} {share:.1%} ({count:,})"
                chart.cell(
                    place - 0.36, place + 0.36, lower[place], lower[place] + share, color, note, "" if is_named else name
                )
                lower[place] += share
                is_named = True
    last = scores[-1]
    total = sum(last.counts.values())
    shares = ", ".join(
        f"{last.counts[category] / total:.1%} {category.replace('_', ' ')}"
        for category in CATEGORY_COLORS
        if last.counts.get(category)
    )
    chart.caption = f"Each bar is one checkpoint. At step {last.step}: {shares}."
    return chart


def loss_curve(run: Run, metrics: Sequence[StepMetrics]) -> Chart | None:
    """Return a chart of a run's training loss by step, raw and smoothed; None for fewer than two steps."""
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
    chart.caption = (
        f"The mean loss of {window} steps goes from {smoothed[min(window, len(smoothed)) - 1]:.3f} to {smoothed[-1]:.3f} "
        "nats per response token. It is the loss on training examples, before each step's update."
    )
    return chart


def learning_rate_curve(run: Run, metrics: Sequence[StepMetrics]) -> Chart | None:
    """Return a chart of a run's learning rate by step; None for fewer than two steps."""
    rates = [step.learning_rate for step in metrics]
    chart = _step_chart(f"{run.name}: learning rate by optimizer step", metrics, "learning rate", rates)
    if chart is None:
        return None
    chart.line(_points([step.step for step in metrics], rates), BLUE)
    chart.caption = f"The learning rate reaches {max(rates):.3g} and ends at {rates[-1]:.3g}."
    return chart


def _step_chart(title: str, metrics: Sequence[StepMetrics], label: str, values: Sequence[float]) -> Chart | None:
    if len(metrics) < 2 or not all(map(math.isfinite, values)) or max(values) <= 0:
        return None
    first, last = metrics[0].step, metrics[-1].step
    vertical = Axis(label, 0.0, max(values) * 1.05)
    return Chart(title, Axis("optimizer step", first, last), vertical, f"steps {first:,} to {last:,}")


def _points(steps: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in zip(steps, values, strict=True)]


def ledger_bars(ledger: Ledger) -> Chart | None:
    """Return a chart of the time of each kind of worker by activity, idle last; None if no worker was held."""
    worker_times = [account for account in ledger.worker_times if account.held_seconds]
    if not worker_times:
        return None
    chart = Chart(
        "The workers' time by activity",
        Axis("minutes", 0.0, max(account.held_seconds for account in worker_times) / 60),
        Axis.of_names("", [account.worker for account in reversed(worker_times)]),
        "each bar is the time that one kind of worker was held",
    )
    colors: dict[str, str] = {}
    for place, account in enumerate(reversed(worker_times)):
        start = 0.0
        for activity, seconds in account.seconds.items():
            new = activity not in colors and seconds > 0
            if new:
                colors[activity] = GRID if activity == IDLE else ACTIVITY_COLORS[len(colors) % len(ACTIVITY_COLORS)]
            note = f"{activity}: {seconds:,.1f} s ({seconds / account.held_seconds:.1%})"
            if seconds > 0:
                label = activity if new else ""
                chart.cell(start, start + seconds / 60, place - 0.25, place + 0.25, colors[activity], note, label)
            if seconds > NAMED_SHARE * account.held_seconds and activity != IDLE:
                chart.text(start + seconds / 120, place, activity, above=-4, color=BAR_INK)
            start += seconds / 60
    idle = ", ".join(
        f"the {account.worker} {account.seconds.get(IDLE, 0.0) / account.held_seconds:.0%}" for account in worker_times
    )
    chart.caption = f"Idle is the share of its time in which a worker waited: {idle}."
    return chart
