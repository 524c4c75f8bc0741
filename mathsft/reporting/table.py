"""A table as data, headers and typed cells, and its renderers: terminal, Markdown, HTML and JSON.

A function for each question returns a Table; what shows it chooses the renderer and, with `only`, the columns.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypeAlias

from markdown_it import MarkdownIt
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from mathsft import formats
from mathsft.objective import Share
from mathsft.reporting import markdown
from mathsft.statistics.intervals import Interval

_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {
    0x7F: "␡",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�"),
}
"""Visible replacements for control characters and changes of direction, which a terminal would execute."""
WITH_INTERVAL = " (95 % interval)"
"""The end of a header whose cells are shares with intervals; on a terminal these are two columns."""


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


Cell: TypeAlias = str | int | Number | Part | Share | Interval | None
"""A string may be of any origin: the renderers make it harmless. None is an empty cell."""


def percent(share: float | None) -> Number | None:
    """Return "24.5%"."""
    return None if share is None else Number(share, markdown.percent)


def count(number: int) -> Number:
    """Return "1,024"; a plain int, such as a step, has no comma."""
    return Number(number, "{:,}".format)


def seconds(duration: float) -> Number:
    """Return "12.3 s", or longer durations in minutes or hours."""
    return Number(duration, formats.seconds)


def size(num_bytes: float | None) -> Number | None:
    """Return "1.25 GiB", or "12.5 MiB" below that; None for None and for no bytes."""
    return Number(num_bytes, formats.size) if num_bytes else None


def decimal(value: float | None, num_digits: int = 1) -> Number | None:
    """Return "144.9"."""
    return None if value is None else Number(value, f"{{:,.{num_digits}f}}".format)


def setting(value: Any) -> Cell:
    """Return a setting's value: a float to three digits, anything else as it is."""
    return Number(value, formats.value) if isinstance(value, float) else None if value is None else str(value)


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers. Columns of text are left-aligned, all others right-aligned."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    @classmethod
    def of(cls, headers: Iterable[str], rows: Iterable[Iterable[Cell]], title: str = "") -> Self:
        """Return a table; raises ValueError if a row has another number of cells than there are headers."""
        table = cls(tuple(headers), tuple(map(tuple, rows)), title)
        for row in table.rows:
            if len(row) != len(table.headers):
                raise ValueError(f"{len(row)} cells under {len(table.headers)} headers: {row}")
        return table

    def without(self, *headers: str) -> Self:
        """Return the table without the columns of these headers."""
        places = [place for place, header in enumerate(self.headers) if header not in headers]
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        return replace(self, headers=tuple(self.headers[place] for place in places), rows=rows)

    # ---- renderers

    def markdown(self) -> str:
        """Return the table in Markdown, without its title; empty without rows."""
        if not self.rows:
            return ""
        rules = ["---" if is_text else "---:" for is_text in self._are_text()]
        lines = ([markdown.cell(text(cell)) for cell in row] for row in (self.headers, *self.rows))
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (next(lines), rules, *lines))

    def html(self) -> str:
        """Return the table as an HTML element, which shows no markup of its cells; empty without rows."""
        return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(self.markdown()))

    def terminal(self) -> RichTable:
        """Return the table for rich; a share and its interval are two columns."""
        split = self._with_separate_intervals()
        rendered = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for header, is_text in zip(split.headers, split._are_text(), strict=True):
            rendered.add_column(header, justify="left" if is_text else "right", no_wrap=True)
        for row in split.rows:
            rendered.add_row(*(Text(harmless(text(cell))) for cell in row))
        return rendered

    def json(self) -> dict[str, Any]:
        """Return title, headers and rows; a number is its value, a share and an interval are objects."""
        return {"title": self.title, "headers": self.headers, "rows": [list(map(_plain, row)) for row in self.rows]}

    def _are_text(self) -> list[bool]:
        """Return for each column whether its cells are text."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.headers)
        return [all(isinstance(cell, str | None) for cell in column) for column in columns]

    def _with_separate_intervals(self) -> "Table":
        def split(header: str, cells: Sequence[Cell]) -> Iterable[tuple[str, list[Cell]]]:
            if not header.endswith(WITH_INTERVAL):
                return [(header, list(cells))]
            shares = [cell.share if isinstance(cell, Share) else None for cell in cells]
            shown: list[Cell] = [
                percent(share) if share is not None else cell for share, cell in zip(shares, cells, strict=True)
            ]
            intervals: list[Cell] = [cell.interval if isinstance(cell, Share) else None for cell in cells]
            return [(header.removesuffix(WITH_INTERVAL), shown), (WITH_INTERVAL.strip(" ()"), intervals)]

        columns = [
            column
            for place, header in enumerate(self.headers)
            for column in split(header, [row[place] for row in self.rows])
        ]
        rows = zip(*(cells for _, cells in columns), strict=True)
        return Table(tuple(header for header, _ in columns), tuple(rows), self.title)


def text(cell: Cell) -> str:
    """Return a cell as text."""
    if cell is None:
        return ""
    if isinstance(cell, Share):
        return markdown.share(cell)
    return markdown.bounds(cell) if isinstance(cell, Interval) else str(cell)


def harmless(untrusted: str) -> str:
    """Return a text in which visible characters replace those that would control a terminal."""
    return untrusted.translate(_CONTROL)


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Number):
        return cell.value
    if isinstance(cell, Share):
        return {"share": cell.share, **asdict(cell)}
    return asdict(cell) if isinstance(cell, Part | Interval) else cell
