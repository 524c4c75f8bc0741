"""Draws the report's figures of the surface fitted to a study's trials: a map, and the effect of each setting alone."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

from mathsft import formats
from mathsft.config.study_schema import Choices, FloatRange, SearchRange
from mathsft.records import Promotion, Run
from mathsft.reporting import markdown
from mathsft.reporting.figures import BLUE
from mathsft.reporting.svg import PAPER, Axis, Chart
from mathsft.reporting.trial_figures import X_SETTING, Y_SETTING, draw_trials, is_placed, shade
from mathsft.runs.contest import Observed
from mathsft.statistics.importance import importance
from mathsft.statistics.surface import Surface, predict

NUM_COLUMNS = 48
MIN_TRIALS = 5
"""A surface that is fitted to fewer trials shows little more than its prior."""
Z_95 = NormalDist().inv_cdf(0.975)


def surface_map(
    space: Mapping[str, SearchRange], observed: Sequence[Observed], promotion: Promotion | None, trials: Sequence[Run] = ()
) -> Chart | None:
    """Return a chart of the surface over learning rate and batch size with all trials on it; None for too few observations.

    The other searched settings have their promoted values. A cell's colour is the surface's mean, and its note has the 95 %
    interval. A mark's colour is the accuracy that the surface was fitted to; its note has the trial's measured accuracy.
    `trials` are all trials of the study; a trial without an observation has no colour.
    """
    rates, sizes = space.get(X_SETTING), space.get(Y_SETTING)
    if len(observed) < MIN_TRIALS or not isinstance(rates, FloatRange) or not isinstance(sizes, Choices):
        return None
    rows = sorted(float(choice) for choice in sizes.choices if isinstance(choice, int | float))
    fixed = promotion.overrides if promotion is not None else observed[0].settings
    columns = [_between(rates, (column + 0.5) / NUM_COLUMNS) for column in range(NUM_COLUMNS)]
    cells = [{**fixed, X_SETTING: rate, Y_SETTING: _choice(sizes, size)} for size in rows for rate in columns]
    surface = predict(space, observed, [{name: cell[name] for name in space if name in cell} for cell in cells])
    low, high = max(0.0, min(surface.means)), max(surface.means)
    edges = [_between(rates, column / NUM_COLUMNS) for column in range(NUM_COLUMNS + 1)]
    middles = [math.sqrt(lower * upper) for lower, upper in pairwise(rows)]
    heights = [rows[0] / math.sqrt(2), *middles, rows[-1] * math.sqrt(2)]
    chart = Chart(
        "Smoothed accuracy by learning rate and batch size",
        Axis("learning rate" + " (log scale)" * rates.log, rates.low, rates.high, log=rates.log, form="{:.0e}".format),
        Axis("batch size in sequences (log scale)", heights[0], heights[-1], log=True, marks=tuple(rows)),
        f"fitted to {len(observed)} trials, from {low:.1%} (light) to {high:.1%} (dark)",
    )
    for place, (mean, sd) in enumerate(zip(surface.means, surface.sds, strict=True)):
        row, column = divmod(place, NUM_COLUMNS)
        chart.cell(
            edges[column], edges[column + 1], heights[row], heights[row + 1], shade(mean, low, high), _estimate(mean, sd)
        )
    by_name = {observation.trial.run.name: observation for observation in observed}

    def described(trial: Run) -> tuple[str, str]:
        observation = by_name.get(trial.name)
        return (
            (PAPER, "not in the fit")
            if observation is None
            else (shade(observation.accuracy, low, high), _measured(observation))
        )

    shown = [trial for trial in trials or [observation.trial.run for observation in observed] if is_placed(trial)]
    draw_trials(chart, shown, promotion.run if promotion is not None else "", described)
    best = max(range(len(cells)), key=lambda place: surface.means[place])
    chart.caption = (
        f"The fitted accuracy is highest at learning rate {formats.value(cells[best][X_SETTING])} and batch size "
        f"{formats.value(cells[best][Y_SETTING])}: {_estimate(surface.means[best], surface.sds[best])}. "
        f"{_similar(surface, best)} Point at a cell to see its 95 % interval."
    )
    return chart


def importance_bars(space: Mapping[str, SearchRange], observed: Sequence[Observed]) -> Chart | None:
    """Return a chart of each searched setting's share of the surface's variance, with intervals; None for too few trials."""
    if len(observed) < MIN_TRIALS:
        return None
    effects = importance(space, observed)
    names = sorted(effects, key=lambda name: effects[name].share)
    chart = Chart(
        "Effect of each setting alone on the accuracy",
        Axis("share of the surface's variance", 0.0, 1.0, form="{:.0%}".format),
        Axis.of_names("", [short_name(name) for name in names]),
        f"from {len(observed)} trials, with 95 % intervals; interactions between settings are not included",
    )
    for place, name in enumerate(names):
        effect = effects[name]
        note = f"{short_name(name)}: {effect.share:.0%} ({effect.low:.0%} – {effect.high:.0%})"
        chart.interval(place, effect.low, effect.high, BLUE, is_across=True)
        chart.mark(effect.share, place, BLUE, note, radius=6)
        chart.text(effect.share, place, f"{effect.share:.0%}", above=13)
    top, rest = names[-1], names[:-1]
    is_clear = all(effects[top].low > effects[name].high for name in rest)
    chart.caption = (
        f"Of the settings alone, {short_name(top)} explains most of the fitted accuracy's variation."
        if is_clear
        else "The intervals overlap: these trials do not show which setting matters most."
    )
    return chart


def short_name(setting: str) -> str:
    """Return "learning_rate" for "training.learning_rate"."""
    return setting.removeprefix("training.")


def _estimate(mean: float, sd: float) -> str:
    return f"{mean:.1%} ({max(0.0, mean - Z_95 * sd):.1%} – {min(1.0, mean + Z_95 * sd):.1%})"


def _similar(surface: Surface, best: int) -> str:
    """Return which share of the map cannot be told apart from its highest point by the interval at that point."""
    floor = surface.means[best] - Z_95 * surface.sds[best]
    share = sum(mean >= floor for mean in surface.means) / len(surface.means)
    return f"{share:.0%} of the area is within the interval of this point."


def _measured(observation: Observed) -> str:
    """Return a trial's accuracy on the problems that it was scored on."""
    trial, pools = observation.trial, observation.pools
    if not pools:
        predicted = f", predicted to end at {observation.accuracy:.1%}" if trial.run.state == "pruned" else ""
        return f"{trial.run.name}: {trial.run.state}{predicted}"
    accuracy, interval, num_problems = trial.accuracy(pools), trial.interval(pools), len(trial.solved(pools))
    return f"{trial.run.name}: {accuracy:.1%} ({markdown.bounds(interval)}) of {num_problems:,} problems"


def _between(rates: FloatRange, share: float) -> float:
    """Return the value at a share of a range: 0 is its low end, 1 its high end."""
    return rates.low * (rates.high / rates.low) ** share if rates.log else rates.low + (rates.high - rates.low) * share


def _choice(sizes: Choices, value: float) -> bool | int | float | str:
    return next(choice for choice in sizes.choices if isinstance(choice, int | float) and float(choice) == value)
