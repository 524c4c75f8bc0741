"""Formats numbers, records and untrusted text as Markdown."""

from mathsft import formats
from mathsft.accounting.ledger import Ledger
from mathsft.objective import Share, accuracy_interval
from mathsft.records import Overrides, Promotion, Score
from mathsft.statistics.intervals import Interval

MAX_CELL_CHARACTERS = 160


def section(heading: str, *parts: str) -> str:
    """Return the parts below a heading; empty if one of them is."""
    return "\n\n".join((heading, *parts)) if all(parts) else ""


def percent(share: float) -> str:
    """Return "24.5%"."""
    return f"{share:.1%}"


def bounds(interval: Interval) -> str:
    """Return "19.1% – 30.9%"."""
    return f"{percent(interval.low)} – {percent(interval.high)}"


def accuracy(score: Score) -> str:
    """Return "24.5% (19.1% – 30.9%)": the accuracy and its 95 % interval."""
    return f"{percent(score.accuracy)} ({bounds(accuracy_interval(score))})"


def share(counted: Share) -> str:
    """Return "24.5% (19.1% – 30.9%)": a share of responses and its 95 % interval."""
    return f"{percent(counted.share)} ({bounds(counted.interval)})"


def expectation(promotion: Promotion) -> str:
    """Return the promoted settings' expected accuracy, and the best search score as measured and corrected."""
    evidence = promotion.evidence
    best = (
        f"The best search score is {evidence['raw_best_accuracy']:.1%} as measured and "
        f"{evidence['corrected_best_accuracy']:.1%} when corrected for the selection of the best trial."
    )
    if "num_problems" not in evidence:
        return f"Expected accuracy: {evidence['accuracy']:.1%}. {best}"
    interval = f"{evidence['low']:.1%} – {evidence['high']:.1%}"
    return f"Accuracy on {evidence['num_problems']:.0f} fresh problems: {evidence['accuracy']:.1%} ({interval}). {best}"


def settings(overrides: Overrides) -> str:
    """Return "learning_rate 0.0012, batch_size 16"."""
    return cell(settings_text(overrides))


def settings_text(overrides: Overrides) -> str:
    """Return the same as plain text, in which nothing is escaped."""
    pairs = [f"{name.removeprefix('training.')} {formats.value(setting)}" for name, setting in sorted(overrides.items())]
    return ", ".join(pairs) or "the experiment's own settings"


def cell(text: str) -> str:
    """Return the first line of an untrusted text, shortened and escaped so that it stays inside a table's cell."""
    first = next(iter(text.splitlines()), "")
    short = first if len(first) <= MAX_CELL_CHARACTERS else first[: MAX_CELL_CHARACTERS - 1] + "…"
    return short.translate({ord(character): f"\\{character}" for character in "\\|`<>[]!"})


def device_hours(ledger: Ledger) -> str:
    """Return "0.20 device-hours (75.9 s in pruned runs, 0.0 s in failed runs)"."""
    wasted = (
        f"{formats.seconds(ledger.pruned_seconds)} in pruned runs, {formats.seconds(ledger.lost_seconds)} in failed runs"
    )
    return f"{ledger.device_hours:.2f} device-hours ({wasted})"
