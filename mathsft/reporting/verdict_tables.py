"""Shows the verdict on two checkpoints: their accuracies as a table, and what follows from them as lines."""

from mathsft.reporting.table import Cell, Table, percent
from mathsft.runs.verdict import PairedVerdict, Side
from mathsft.statistics.intervals import Interval


def sides_table(verdict: PairedVerdict) -> Table:
    """Return the accuracies of both checkpoints on the problems that both were scored on."""

    def row(side: Side) -> tuple[Cell, ...]:
        return f"{side.study}/{side.run}", side.step, percent(side.accuracy), Interval(side.low, side.high)

    title = f"The same {verdict.num_problems:,} problems ({', '.join(verdict.pools)})"
    headers = ("checkpoint", "step", "accuracy", "95 % interval")
    return Table.of(headers, [row(verdict.first), row(verdict.second)], title)


def verdict_lines(verdict: PairedVerdict) -> list[str]:
    """Return the verdict, what these problems can show, and what may mislead."""
    chance = (
        f"Noise: equally good checkpoints differ by more than {100 * verdict.noise_floor:.1f} points in 5 % of comparisons"
    )
    if verdict.minimum_detectable_difference is not None:
        least = 100 * verdict.minimum_detectable_difference
        chance += f"; a true difference of {least:.1f} points is found in 80 %"
    return [verdict.sentence, f"{chance}.", *(f"Caution: {caution}." for caution in verdict.cautions)]
