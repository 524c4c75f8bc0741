"""What a choice between trials amounts to, in words. It chooses nothing.

A trial is its number and its share of correct responses to each problem, in an order that all trials share.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mathsft.config.schema import Choices, IntRange, Scalar, SearchRange
from mathsft.records import Overrides
from mathsft.statistics.paired import PairedDifference, compare
from mathsft.statistics.power import minimum_detectable_difference
from mathsft.statistics.surface import position

Outcomes: TypeAlias = tuple[int, tuple[float, ...]]

PROOF = 20
"""An e-value that chance reaches in one of twenty comparisons at most, however often one looks."""
EDGE = 0.05
"""Share of a range within which its ends count as its edge."""
MIN_PROBLEMS = 6
"""Below it no difference could ever be detected."""


def runner_up_note(winner: Outcomes, others: Sequence[Outcomes]) -> str:
    """Return how surely the winner is better than the next best."""
    number, solved = winner
    if not others:
        return f"trial {number} promoted: no other settings were trained to the end"
    second, found = others[0][0], compare(others[0][1], solved)
    problems = f"on {found.num_problems:,} problems"
    if found.e_value >= PROOF:
        return f"trial {number} beats trial {second} {problems}: {_gain(found)}"
    if found.low <= 0 <= found.high:
        first, last = sorted((number, second))
        return f"trials {first} and {last} cannot be told apart {problems}; {number} promoted: higher smoothed mean"
    return (
        f"trial {number} promoted: higher smoothed mean; {_gain(found)} against trial {second} {problems} by the interval "
        f"for a single look, but the e-value is {found.e_value:.1f}, and repeated looks ask for {PROOF}"
    )


def own_settings_note(winner: Outcomes, own: Outcomes) -> str:
    """Return whether tuning was worth it: the winner against trial 0, the experiment's own settings."""
    if winner[0] == own[0]:
        return "tuning found nothing better than the experiment's own settings (trial 0)"
    found = compare(own[1], winner[1])
    against = f"{_gain(found)} against the experiment's own settings (trial 0) on {found.num_problems:,} problems"
    if found.low > 0:
        return f"tuning was worth it: {against}"
    if found.high < 0:
        return f"tuning was not worth it: {against}"
    if found.num_problems < MIN_PROBLEMS:
        return f"whether tuning was worth it cannot be told: {against}"
    discordance = (found.num_gained + found.num_lost) / found.num_problems
    least = minimum_detectable_difference(found.num_problems, discordance)
    return f"whether tuning was worth it cannot be told: {against}, where less than {least * 100:.1f} points hardly shows"


def edge_notes(overrides: Overrides, space: Mapping[str, SearchRange]) -> list[str]:
    """Return, for each setting that lies at an edge of its range, that it does and what to try."""
    notes = []
    for name, given in space.items():
        at = position(given, overrides[name])
        if at is None or EDGE < at < 1 - EDGE:
            continue
        beyond = _beyond(given, float(overrides[name]), is_low=at <= EDGE)
        if beyond is not None:
            edge = "lower" if at <= EDGE else "upper"
            notes.append(f"{name} {_value(overrides[name])} is at the {edge} edge of what was searched: try {beyond}")
    return notes


def _beyond(given: SearchRange, value: float, is_low: bool) -> str | None:
    """Return what to try beyond an edge; None where nothing lies beyond: ranges of sizes begin at 0, of numbers at 1."""
    if isinstance(given, Choices):
        return _next_choice(sorted(float(choice) for choice in given.choices), given, is_low)
    least = 1.0 if isinstance(given, IntRange) else 0.0
    if is_low and given.low == least:
        return None
    if given.log:
        half = math.sqrt(given.high / given.low)
        low, high = value / half, value * half
    else:
        reach = (given.high - given.low) / 2
        low, high = value - reach, value + reach
    if given.low >= least:
        low = max(low, least)
    return f"{_value(_as(given, low))} to {_value(_as(given, high))}"


def _next_choice(ordered: Sequence[float], given: Choices, is_low: bool) -> str | None:
    """Return the number that would continue the choices, by their ratio where all are positive."""
    if len(ordered) < 2:
        return None
    edge, neighbour = (ordered[0], ordered[1]) if is_low else (ordered[-1], ordered[-2])
    following = edge * edge / neighbour if ordered[0] > 0 else 2 * edge - neighbour
    whole = all(isinstance(choice, int) for choice in given.choices)
    if whole and (round(following) == edge or following < 0.5):
        return None
    return f"also {round(following) if whole else _value(following)}"


def _as(given: SearchRange, value: float) -> Scalar:
    return round(value) if isinstance(given, IntRange) else value


def _gain(found: PairedDifference) -> str:
    return f"{found.difference * 100:+.1f} points ({found.low * 100:+.1f} to {found.high * 100:+.1f})"


def _value(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
