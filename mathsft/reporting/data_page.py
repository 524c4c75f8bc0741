"""Shows what an experiment's data hold: pools, findings with examples, lengths of training examples, speed of training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from rich.table import Table as RichTable
from rich.text import Text

from mathsft import formats
from mathsft.records import Finding, Problem, Quality
from mathsft.reporting.quality_section import TEXTS, count_text
from mathsft.reporting.table import Cell, Number, Table, count

NUM_BINS = 10
_BAR_CHARACTERS = 40


@dataclass(frozen=True)
class Bin:
    """The number of training examples with low to high - 1 tokens."""

    low: int
    high: int
    num_examples: int


@dataclass(frozen=True)
class LengthSummary:
    """The lengths in tokens of the training examples: prompt, target and its end."""

    num_examples: int
    mean_tokens: float
    median_tokens: float
    longest_tokens: int
    limit_tokens: int
    """training.max_length_tokens; longer examples are left out."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class PredictedSpeed:
    """The predicted speed of training on one trainer."""

    tokens_per_second: float
    pass_seconds: float
    """One pass over the train pool."""
    basis: str
    """Where the speed is from, in words."""


@dataclass(frozen=True)
class DataPage:
    """All that `mathsft data` shows; lengths and speed are None where the model is not on this machine."""

    source: str
    test_source: str | None
    num_problems: Mapping[str, int]
    """Distinct problems by pool."""
    num_train_rows: int
    quality: Quality
    lengths: LengthSummary | None
    speed: PredictedSpeed | None
    stops: tuple[str, ...]
    """Why a study with these settings would stop at its data."""
    notes: tuple[str, ...]


def summarised(lengths: Sequence[int], limit_tokens: int) -> LengthSummary:
    """Return the summary of at least one length, with bins of one width and one more for those above the limit."""
    end = min(max(lengths), limit_tokens) + 1
    width = -(-end // NUM_BINS)
    bins = [Bin(low, min(low + width, end), 0) for low in range(0, end, width)]
    bins += [Bin(end, max(lengths) + 1, 0)] if max(lengths) >= end else []
    counts = Counter(length // width if length < end else len(bins) - 1 for length in lengths)
    filled = tuple(replace(one, num_examples=counts[place]) for place, one in enumerate(bins))
    return LengthSummary(len(lengths), fmean(lengths), median(lengths), max(lengths), limit_tokens, filled)


def too_long(train: Sequence[Problem], lengths: Sequence[int], limit_tokens: int) -> Finding:
    """Return the examples that are longer than the limit, the longest first."""
    longer = sorted(
        ((length, row.problem) for row, length in zip(train, lengths, strict=True) if length > limit_tokens), reverse=True
    )
    examples = tuple(f"{length:,} tokens: {_cut(text)}" for length, text in longer[:3])
    return Finding("too_long", len(longer), len(longer), examples)


def pools_table(page: DataPage) -> Table:
    """Return the pools and their sizes."""
    title = f"{page.quality.num_rows:,} rows of {page.source}" + (f" and {page.test_source}" if page.test_source else "")
    sizes = page.num_problems
    num_rows = {**sizes, "train": page.num_train_rows}
    pools = ("train", "search", "confirm", "validation", "test")
    return Table.of(
        ("pool", "problems", "rows"), ((name, count(sizes[name]), count(num_rows[name])) for name in pools), title
    )


def findings_table(page: DataPage) -> RichTable:
    """Return each kind of finding with its number and its first examples."""
    table = RichTable(title="Found in the data", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in page.quality.findings:
        table.add_row(count_text(finding), Text(TEXTS[finding.kind], style="bold"))
        for example in finding.examples:
            table.add_row("", Text(f"- {example}"))
    if not page.quality.findings:
        table.add_row("0", "defects")
    return table


def lengths_table(lengths: LengthSummary) -> Table:
    """Return the histogram of the lengths."""
    title = (
        f"Tokens of {lengths.num_examples:,} training examples: mean {lengths.mean_tokens:,.0f}, median "
        f"{lengths.median_tokens:,.0f}, longest {lengths.longest_tokens:,}; limit {lengths.limit_tokens:,}"
    )
    largest = max(one.num_examples for one in lengths.bins)

    def row(one: Bin) -> tuple[Cell, ...]:
        tokens = Number(one.low, lambda low: f"{low:,} – {one.high - 1:,}")
        return tokens, count(one.num_examples), "█" * round(_BAR_CHARACTERS * one.num_examples / largest)

    return Table.of(("tokens", "examples", ""), map(row, lengths.bins), title)


def speed_line(speed: PredictedSpeed) -> str:
    """Return the predicted speed as a sentence."""
    return (
        f"Training: about {speed.tokens_per_second:,.0f} tokens a second on one trainer, "
        f"{formats.rough_seconds(speed.pass_seconds)} for one pass over train ({speed.basis})."
    )


def _cut(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= 80 else f"{first[:77]}..."
