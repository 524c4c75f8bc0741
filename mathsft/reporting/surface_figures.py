"""Draws the report's figures of the surface fitted to a study's trials: a map, and the importance of each setting."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

from mathsft.config.schema import Choices, FloatRange, SearchRange
from mathsft.records import Promotion
from mathsft.reporting import markdown
from mathsft.reporting.figures import AMBER, BLUE, X_SETTING, Y_SETTING, shade
from mathsft.reporting.svg import PAPER, Axis, Chart
from mathsft.runs.contest import Observed
from mathsft.statistics.importance import importance
from mathsft.statistics.surface import predict

NUM_COLUMNS = 48
MIN_TRIALS = 5
"""A surface that is fitted to fewer trials shows little more than its prior."""
Z_95 = NormalDist().inv_cdf(0.975)


def surface_map(space: Mapping[str, SearchRange], observed: Sequence[Observed], promotion: Promotion | None) -> str | None:
    """Return an SVG of the surface over learning rate and batch size with the trials on it; None for too few trials.

    The other searched settings have their promoted values. A cell's colour is the surface's mean, and its note has the 95 %
    interval. A dot's colour is the accuracy that the surface was fitted to; its note has the trial's measured accuracy.
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
        Axis("learning rate", rates.low, rates.high, log=rates.log, form="{:.0e}".format),
        Axis("batch size", heights[0], heights[-1], log=True, marks=tuple(rows)),
        f"fitted to {len(observed)} trials, from {low:.1%} (light) to {high:.1%} (dark); hover to see 95 % intervals",
    )
    for place, (mean, sd) in enumerate(zip(surface.means, surface.sds, strict=True)):
        row, column = divmod(place, NUM_COLUMNS)
        note = f"{mean:.1%} ({max(0.0, mean - Z_95 * sd):.1%} – {min(1.0, mean + Z_95 * sd):.1%})"
        chart.cell(edges[column], edges[column + 1], heights[row], heights[row + 1], shade(mean, low, high), note)
    for observation in observed:
        ring = AMBER if promotion is not None and promotion.run == observation.trial.run.name else PAPER
        rate, size = float(observation.settings[X_SETTING]), float(observation.settings[Y_SETTING])
        chart.dot(rate, size, shade(observation.accuracy, low, high), _measured(observation), radius=6, ring=ring)
    return chart.render()


def importance_bars(space: Mapping[str, SearchRange], observed: Sequence[Observed]) -> str | None:
    """Return an SVG of each searched setting's share of the surface's variance; None for too few trials."""
    if len(observed) < MIN_TRIALS:
        return None
    shares = importance(space, observed)
    names = sorted(shares, key=lambda name: shares[name])
    chart = Chart(
        "Effect of each setting alone on the accuracy",
        Axis("share of the smoothed surface's variance over the searched ranges", 0.0, 1.0, form="{:.0%}".format),
        Axis("", 0.0, float(len(names)), form=lambda _: "", marks=(0.0,)),
        f"from {len(observed)} trials; interactions between settings are not included",
    )
    for place, name in enumerate(names):
        chart.cell(0.0, max(shares[name], 0.002), place + 0.3, place + 0.7, BLUE, f"{shares[name]:.0%}")
        chart.text(0.5, place + 0.75, f"{name.removeprefix('training.')}: {shares[name]:.0%}", above=2)
    return chart.render()


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
