"""How the report writes numbers, tables and foreign text in Markdown. It knows nothing of studies."""

from collections.abc import Sequence

from mathsft.config.schema import Scalar
from mathsft.objective import Share, accuracy_interval
from mathsft.records import Overrides, Promotion, Score
from mathsft.statistics.intervals import Interval

MAX_CELL_CHARACTERS = 160


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Return a Markdown table whose first num_left columns are aligned left, the others right."""
    rules = ["---" if index < num_left else "---:" for index in range(len(headers))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headers, rules, *rows))


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
    """Return what to expect of the promoted settings, beside the best score as it was measured."""
    known = promotion.evidence
    best, corrected = known["raw_best_accuracy"], known["corrected_best_accuracy"]
    raw = f"the search's best as measured {best:.1%}, without its luck {corrected:.1%}"
    if "num_problems" not in known:
        return f"Expected accuracy {known['accuracy']:.1%}; {raw}."
    interval = f"{known['low']:.1%} – {known['high']:.1%}"
    return f"Accuracy on {known['num_problems']:.0f} fresh problems {known['accuracy']:.1%} ({interval}); {raw}."


def value(setting: Scalar) -> str:
    """Return a setting's value, floats to three digits."""
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)


def settings(overrides: Overrides) -> str:
    """Return "learning_rate 0.0012, batch_size 16"."""
    given = [f"{name.removeprefix('training.')} {value(setting)}" for name, setting in sorted(overrides.items())]
    return cell(", ".join(given) or "the experiment's own settings")


def cell(text: str) -> str:
    """Return the first line of a text that may come from anywhere, short and unable to break out of a table's cell."""
    first = next(iter(text.splitlines()), "")
    short = first if len(first) <= MAX_CELL_CHARACTERS else first[: MAX_CELL_CHARACTERS - 1] + "…"
    return short.translate({ord(character): f"\\{character}" for character in "\\|`<>[]!"})


def seconds(given: float) -> str:
    """Return "12.3 s", "11.0 min" or "2.5 h"."""
    if given < 600:
        return f"{given:.1f} s"
    return f"{given / 60:.1f} min" if given < 7200 else f"{given / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """Return "1.25 GiB", or "12.5 MiB" below that."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
