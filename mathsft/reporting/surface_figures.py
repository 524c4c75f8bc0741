"""The report's figures of the smoothed surface through a study's trials: a map of it, and what each setting does to it."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

from mathsft.config.schema import Choices, FloatRange, SearchRange
from mathsft.records import Promotion
from mathsft.reporting.figures import AMBER, BLUE, X_SETTING, Y_SETTING, shade
from mathsft.reporting.svg import PAPER, Axis, Chart
from mathsft.runs.contest import Observed
from mathsft.statistics.importance import importance
from mathsft.statistics.surface import predict

NUM_COLUMNS = 48
MIN_TRIALS = 5
"""A surface through fewer would show little but its assumptions."""
WIDE = NormalDist().inv_cdf(0.975)


def surface_map(space: Mapping[str, SearchRange], observed: Sequence[Observed], promotion: Promotion | None) -> str | None:
    """Return an SVG of the surface over learning rate and batch size with the trials on it; None where it has too few.

    Other searched settings are as promoted. Colour is the surface's mean, and under the pointer is its 95 % interval. A
    trial's colour is what the surface takes its accuracy for; under the pointer is what it reached on its own problems.
    """
    rates, sizes = space.get(X_SETTING), space.get(Y_SETTING)
    if len(observed) < MIN_TRIALS or not isinstance(rates, FloatRange) or not isinstance(sizes, Choices):
        return None
    rows = sorted(float(choice) for choice in sizes.choices if isinstance(choice, int | float))
    fixed = promotion.overrides if promotion is not None else observed[0].settings
    columns = [_between(rates, (column + 0.5) / NUM_COLUMNS) for column in range(NUM_COLUMNS)]
    cells = [{**fixed, X_SETTING: rate, Y_SETTING: _choice(sizes, size)} for size in rows for rate in columns]
    surface = predict(space, observed, [{name: cell[name] for name in space} for cell in cells])
    low, high = max(0.0, min(surface.means)), max(surface.means)
    edges = [_between(rates, column / NUM_COLUMNS) for column in range(NUM_COLUMNS + 1)]
    middles = [math.sqrt(one * other) for one, other in pairwise(rows)]
    heights = [rows[0] / math.sqrt(2), *middles, rows[-1] * math.sqrt(2)]
    chart = Chart(
        "Smoothed accuracy by learning rate and batch size",
        Axis("learning rate", rates.low, rates.high, log=rates.log, form="{:.0e}".format),
        Axis("batch size", heights[0], heights[-1], log=True, marks=tuple(rows)),
        f"through {len(observed)} trials, from {low:.1%} (light) to {high:.1%} (dark); 95 % intervals under the pointer",
    )
    for place, (mean, sd) in enumerate(zip(surface.means, surface.sds, strict=True)):
        row, column = divmod(place, NUM_COLUMNS)
        note = f"{mean:.1%} ({max(0.0, mean - WIDE * sd):.1%} – {min(1.0, mean + WIDE * sd):.1%})"
        chart.cell(edges[column], edges[column + 1], heights[row], heights[row + 1], shade(mean, low, high), note)
    for one in observed:
        ring = AMBER if promotion is not None and promotion.run == one.trial.run.name else PAPER
        where = float(one.settings[X_SETTING]), float(one.settings[Y_SETTING])
        chart.dot(*where, shade(one.accuracy, low, high), _measured(one), radius=6, ring=ring)
    return chart.render()


def importance_bars(space: Mapping[str, SearchRange], observed: Sequence[Observed]) -> str | None:
    """Return an SVG of each searched setting's share of the surface's variance; None where it has too few trials."""
    if len(observed) < MIN_TRIALS:
        return None
    shares = importance(space, observed)
    names = sorted(shares, key=lambda name: shares[name])
    chart = Chart(
        "What each setting does to accuracy by itself",
        Axis("share of the smoothed surface's variance over the searched ranges", 0.0, 1.0, form="{:.0%}".format),
        Axis("", 0.0, float(len(names)), form=lambda _: "", marks=(0.0,)),
        f"from {len(observed)} trials; what settings do only together is in none of them",
    )
    for place, name in enumerate(names):
        chart.cell(0.0, max(shares[name], 0.002), place + 0.3, place + 0.7, BLUE, f"{shares[name]:.0%}")
        chart.text(0.5, place + 0.75, f"{name.removeprefix('training.')}: {shares[name]:.0%}", above=2)
    return chart.render()


def _measured(one: Observed) -> str:
    trial = one.trial
    if not one.pools:
        predicted = f", predicted to end at {one.accuracy:.1%}" if trial.run.state == "pruned" else ""
        return f"{trial.run.name}: {trial.run.state}{predicted}"
    accuracy, interval, num_problems = trial.accuracy(one.pools), trial.interval(one.pools), len(trial.solved(one.pools))
    return f"{trial.run.name}: {accuracy:.1%} ({interval.low:.1%} – {interval.high:.1%}) of {num_problems:,} problems"


def _between(given: FloatRange, share: float) -> float:
    return given.low * (given.high / given.low) ** share if given.log else given.low + (given.high - given.low) * share


def _choice(given: Choices, value: float) -> bool | int | float | str:
    return next(choice for choice in given.choices if isinstance(choice, int | float) and float(choice) == value)
