"""Describes a promotion in words: how sure it is, whether tuning was worth it, and which searched ranges to extend.

A trial is given as its number and its share of correct responses to each problem, in the same order for all trials.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mathsft import formats
from mathsft.config.study_schema import Choices, IntRange, SearchRange
from mathsft.records import Overrides
from mathsft.statistics.paired import PairedDifference, compare
from mathsft.statistics.power import MIN_PROBLEMS, PROVEN, minimum_detectable_difference
from mathsft.statistics.surface import position

NumberedOutcomes: TypeAlias = tuple[int, tuple[float, ...]]

EDGE_SHARE = 0.05
"""A value is at an edge of its range when its distance from an end is at most this share of the range."""


def runner_up_note(winner: NumberedOutcomes, others: Sequence[NumberedOutcomes]) -> str:
    """Return how sure it is that the winner is better than the trial ranked second."""
    number, solved = winner
    if not others:
        return f"trial {number} promoted: no other settings were trained to the end"
    second, comparison = others[0][0], compare(others[0][1], solved)
    problems = f"on {comparison.num_problems:,} problems"
    if comparison.e_value >= PROVEN:
        return f"trial {number} beats trial {second} {problems}: {_gain(comparison)}"
    if comparison.low <= 0 <= comparison.high:
        first, last = sorted((number, second))
        return f"trials {first} and {last} cannot be told apart {problems}; {number} promoted: higher smoothed mean"
    return (
        f"trial {number} promoted: higher smoothed mean; {_gain(comparison)} against trial {second} {problems}; the "
        f"interval is for a single comparison; repeated ones need an e-value of {PROVEN}, and it is "
        f"{comparison.e_value:.1f}"
    )


def own_settings_note(winner: NumberedOutcomes, own: NumberedOutcomes) -> str:
    """Return whether tuning was worth it: the winner against trial 0, the experiment's own settings."""
    if winner[0] == own[0]:
        return "tuning found nothing better than the experiment's own settings (trial 0)"
    comparison = compare(own[1], winner[1])
    gain = f"{_gain(comparison)} against the experiment's own settings (trial 0) on {comparison.num_problems:,} problems"
    if comparison.low > 0:
        return f"tuning was worth it: {gain}"
    if comparison.high < 0:
        return f"tuning was not worth it: {gain}"
    unclear = f"the data do not show whether tuning was worth it: {gain}"
    if comparison.num_problems < MIN_PROBLEMS:
        return unclear
    discordance = (comparison.num_gained + comparison.num_lost) / comparison.num_problems
    least = minimum_detectable_difference(comparison.num_problems, discordance)
    return f"{unclear}; less than {least * 100:.1f} points is hard to detect"


def edge_notes(overrides: Overrides, space: Mapping[str, SearchRange]) -> list[str]:
    """Return a note for each setting at an edge of its range: which edge, and which values to try."""
    notes = []
    for name, searched in space.items():
        relative = position(searched, overrides[name]) if name in overrides else None
        if relative is None or EDGE_SHARE < relative < 1 - EDGE_SHARE:
            continue
        is_low = relative <= EDGE_SHARE
        if beyond := _beyond(searched, float(overrides[name]), is_low):
            edge = "lower" if is_low else "upper"
            notes.append(
                f"{name} {formats.value(overrides[name])} is at the {edge} edge of its searched range: try {beyond}"
            )
    return notes


def _beyond(searched: SearchRange, value: float, is_low: bool) -> str | None:
    """Return the values to try beyond an edge; None if the range ends at its natural limit: 0 for floats, 1 for integers."""
    if isinstance(searched, Choices):
        return _next_choice(searched, is_low)
    least = 1.0 if isinstance(searched, IntRange) else 0.0
    if is_low and searched.low == least:
        return None
    if searched.log:
        half = math.sqrt(searched.high / searched.low)
        low, high = value / half, value * half
    else:
        half = (searched.high - searched.low) / 2
        low, high = value - half, value + half
    if searched.low >= least:
        low = max(low, least)
    number = round if isinstance(searched, IntRange) else float
    return f"{formats.value(number(low))} to {formats.value(number(high))}"


def _next_choice(searched: Choices, is_low: bool) -> str | None:
    """Return the number that continues the choices: by their ratio if all are positive, else by their difference."""
    ordered = sorted(float(choice) for choice in searched.choices)
    if len(ordered) < 2:
        return None
    edge, neighbour = (ordered[0], ordered[1]) if is_low else (ordered[-1], ordered[-2])
    following = edge * edge / neighbour if ordered[0] > 0 else 2 * edge - neighbour
    whole = all(isinstance(choice, int) for choice in searched.choices)
    if whole and (round(following) == edge or following < 0.5):
        return None
    return f"also {round(following) if whole else formats.value(following)}"


def _gain(comparison: PairedDifference) -> str:
    return f"{comparison.difference * 100:+.1f} points ({comparison.low * 100:+.1f} to {comparison.high * 100:+.1f})"
