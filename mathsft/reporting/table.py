"""A table as data, headers and typed cells, and its renderers: terminal, Markdown, HTML and JSON.

A function for each question returns a Table. The place that shows it chooses the renderer, and leaves columns out.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self, TypeAlias

from markdown_it import MarkdownIt
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from mathsft import formats
from mathsft.config.schema import Scalar
from mathsft.objective import Share, accuracy_interval
from mathsft.records import Score
from mathsft.reporting import markdown
from mathsft.statistics.intervals import Interval

_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {
    0x7F: "␡",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�"),
}
"""Visible replacements for control characters and changes of direction, which a terminal would execute."""
WITH_INTERVAL = " (95 % interval)"
"""The end of a header whose cells are shares with intervals; on a terminal these are two columns."""

# ---- cells


@dataclass(frozen=True)
class Number:
    """A number and the function that writes it."""

    value: float
    form: Callable[[float], str]

    def __str__(self) -> str:
        return self.form(self.value)


@dataclass(frozen=True)
class Part:
    """A number of things out of all: "49 of 200"."""

    num: int
    of: int

    def __str__(self) -> str:
        return f"{self.num:,} of {self.of:,}"


@dataclass(frozen=True)
class Link:
    """A word with an address that Markdown and HTML show as a link; the address is not from outside."""

    word: str
    address: str

    def __str__(self) -> str:
        return self.word


Cell: TypeAlias = str | int | Number | Part | Share | Interval | Link | None
"""A string may be of any origin: the renderers make it harmless. An int has no commas. None is an empty cell."""


def number(value: float | None, form: Callable[[float], str]) -> Number | None:
    """Return a number as a cell; None for None."""
    return None if value is None else Number(value, form)


percent, count = partial(number, form=markdown.percent), partial(number, form="{:,}".format)
seconds, size = partial(number, form=formats.seconds), partial(number, form=formats.size)
mean = partial(number, form="{:.1f}".format)


def setting(value: Scalar | None) -> Cell:
    """Return a setting's value: a float to three digits, a bool as a word, anything else as it is."""
    return Number(value, formats.value) if isinstance(value, float) else str(value) if isinstance(value, bool) else value


def accuracy(score: Score) -> Share:
    """Return a score's accuracy with its 95 % interval."""
    return Share(score.counts["correct"], sum(score.counts.values()), accuracy_interval(score))


def correct(score: Score) -> Part:
    """Return a score's correct responses out of all."""
    return Part(score.counts["correct"], sum(score.counts.values()))


def text(cell: Cell) -> str:
    """Return a cell as text."""
    if isinstance(cell, Share):
        return markdown.share(cell)
    return "" if cell is None else markdown.bounds(cell) if isinstance(cell, Interval) else str(cell)


def harmless(untrusted: str) -> str:
    """Return a text in which visible characters replace those that would control a terminal."""
    return untrusted.translate(_CONTROL)


# ---- the table


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers. Columns of text are left-aligned, all others right-aligned."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    @classmethod
    def of(cls, headers: Iterable[str], rows: Iterable[Iterable[Cell]], title: str = "") -> Self:
        """Return a table of any iterables."""
        return cls(tuple(headers), tuple(map(tuple, rows)), title)

    def without(self, *headers: str) -> Self:
        """Return the table without the columns of these headers."""
        kept = [header not in headers for header in self.headers]
        rows = (tuple(cell for cell, is_kept in zip(row, kept, strict=True) if is_kept) for row in self.rows)
        return replace(self, headers=tuple(header for header in self.headers if header not in headers), rows=tuple(rows))

    def markdown(self) -> str:
        """Return the table in Markdown, without its title; empty without rows."""
        if not self.rows:
            return ""
        rules = ("---" if is_text else "---:" for is_text in self._are_text())
        headers, *rows = ([_in_markdown(cell) for cell in row] for row in (self.headers, *self.rows))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rules, *rows))

    def html(self) -> str:
        """Return the table in HTML; markup in its cells is shown as text."""
        return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(self.markdown()))

    _repr_html_ = html
    """Shows the table in a notebook."""

    def terminal(self) -> RichTable:
        """Return the table for rich; a share and its interval are two columns."""
        rendered = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for header, is_text in zip(self.headers, self._are_text(), strict=True):
            for part in header.removesuffix(")").split(" (") if header.endswith(WITH_INTERVAL) else [header]:
                rendered.add_column(part, justify="left" if is_text else "right", no_wrap=True)
        for row in self.rows:
            cells: list[Cell] = []
            for header, cell in zip(self.headers, row, strict=True):
                both = [percent(cell.share), cell.interval] if isinstance(cell, Share) else [cell, None]
                cells += both if header.endswith(WITH_INTERVAL) else [cell]
            rendered.add_row(*(Text(harmless(text(cell))) for cell in cells))
        return rendered

    def json(self) -> list[dict[str, Any]]:
        """Return an object for each row, by header with "_" for spaces; a number is its value, a share has its interval."""
        keys = [header.removesuffix(WITH_INTERVAL).replace(" ", "_") for header in self.headers]
        return [dict(zip(keys, map(_plain, row), strict=True)) for row in self.rows]

    def _are_text(self) -> list[bool]:
        """Return for each column whether its cells are text."""
        return [all(isinstance(row[place], str | Link | None) for row in self.rows) for place in range(len(self.headers))]


def _in_markdown(cell: Cell) -> str:
    shown = markdown.cell(text(cell))
    return f"[{shown}]({cell.address})" if isinstance(cell, Link) else shown


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Number):
        return cell.value
    if isinstance(cell, Share):
        return {"share": cell.share, **asdict(cell)}
    return asdict(cell) if isinstance(cell, Part | Interval | Link) else cell
