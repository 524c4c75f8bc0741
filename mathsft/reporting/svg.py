"""Draws a chart as SVG: two axes with ticks, and lines, bands, cells, marks and texts in data units."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias
from xml.sax.saxutils import escape, quoteattr

WIDTH, NARROW_WIDTH = 760, 360
"""Pixels: of a figure's file, and of the drawing that a page shows on a narrow screen."""
PLOT_HEIGHT, LEFT, RIGHT, BOTTOM = 274, 72, 24, 56
ROW_HEIGHT, LEAST_ROW_HEIGHT = 62, 30
TITLE_HEIGHT, LEGEND_LINE = 50, 22
BAR_INK = "#26323e"
"""Of texts on a coloured bar, which has the same colour on a dark screen."""
INK, FAINT_INK, GRID, PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
CHARACTER_WIDTH, TEXT_HEIGHT = 6.6, 14
CAP = 4.0
"""Half the length, in pixels, of the strokes at the ends of an interval."""

Shape: TypeAlias = Literal["dot", "triangle", "cross"]


@dataclass(frozen=True)
class Axis:
    """One axis: its label, its ends, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False
    form: Callable[[float], str] = "{:g}".format
    marks: tuple[float, ...] = ()
    """The positions of the ticks; if empty, ticks are at round values."""
    names: tuple[str, ...] = ()
    """The labels of the ticks at 0, 1, …: the axis has a place for each name."""

    @classmethod
    def of_names(cls, label: str, names: Sequence[str]) -> "Axis":
        """Return an axis with a place for each name, the first at 0."""
        return cls(label, -0.5, len(names) - 0.5, marks=tuple(map(float, range(len(names)))), names=tuple(names))

    def shown(self, tick: float) -> str:
        """Return the label of a tick."""
        return self.names[int(tick)] if self.names else self.form(tick)

    def share(self, value: float) -> float:
        """Return the position of a value between the ends: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def moved(self, value: float, share: float) -> float:
        """Return the value that is this share of the axis's length further along it."""
        return value * (self.high / self.low) ** share if self.log else value + (self.high - self.low) * share

    def ticks(self, most: int = 7) -> list[float]:
        """Return the values of the ticks between the ends; `most` is roughly the number of round values."""
        ticks = self.marks or (self._log_ticks() if self.log else self._linear_ticks(most))
        return [tick for tick in ticks if -1e-9 <= self.share(tick) <= 1 + 1e-9]

    def _linear_ticks(self, most: int) -> list[float]:
        rough = (self.high - self.low) / (most - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        spacing = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / spacing - 1e-9)
        return [spacing * index for index in range(first, math.floor(self.high / spacing + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1,) if self.high / self.low > 1e4 else (1, 2, 5)
        return [factor * 10.0**power for power in powers for factor in factors]


@dataclass(frozen=True)
class _Canvas:
    """The pixels of one drawing of a chart: its width, the place of the plot in it, and the texts written so far."""

    x: Axis
    y: Axis
    width: int
    top: float
    height: float
    """Of the plot."""
    left: float
    written: list[tuple[float, float, float]] = field(default_factory=list)
    """Centre and width of each text."""

    @property
    def right(self) -> float:
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixels of a point."""
        return self.left + self.x.share(x) * (self.right - self.left), self.bottom - self.y.share(y) * self.height

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{across:.1f},{down:.1f}" for across, down in (self.place(x, y) for x, y in points))

    def is_free(self, across: float, down: float, width: float) -> bool:
        """Return whether a text would cover no earlier one and stay inside the plot's width; if so, reserve its place."""
        if across - width / 2 < self.left - 4 or across + width / 2 > self.width:
            return False
        if any(abs(across - x) < (width + other) / 2 and abs(down - y) < TEXT_HEIGHT for x, y, other in self.written):
            return False
        self.written.append((across, down, width))
        return True


_Mark: TypeAlias = Callable[[_Canvas], str]


@dataclass
class Chart:
    """A chart: its methods draw in the order of their calls, in the units of the axes; render returns the SVG."""

    title: str
    x: Axis
    y: Axis
    subtitle: str
    caption: str = ""
    """One sentence that says what the figure shows."""
    _marks: list[_Mark] = field(default_factory=list)
    _legend: list[tuple[str, str]] = field(default_factory=list)

    def line(
        self, points: Sequence[tuple[float, float]], color: str, label: str = "", dashes: str = "", width: float = 2
    ) -> None:
        """Draw a line through the points."""
        stroke = f'stroke="{color}" stroke-width="{width:g}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")
        self._marks.append(lambda canvas: f'<polyline points="{canvas.path(points)}" fill="none" {stroke}/>')
        self._explain(f'<line x1="0" y1="-4" x2="22" y2="-4" {stroke}/>', label)

    def interval(self, x: float, low: float, high: float, color: str, label: str = "", is_across: bool = False) -> None:
        """Draw an interval as a line with a stroke at each end: upright at x, or, if is_across, level at height x."""
        stroke = f'stroke="{color}" stroke-width="1.5"'

        def draw(canvas: _Canvas) -> str:
            ends = [canvas.place(*((end, x) if is_across else (x, end))) for end in (low, high)]
            (x1, y1), (x2, y2) = ends
            across, down = (0.0, CAP) if is_across else (CAP, 0.0)
            caps = "".join(f"M{px - across:.1f},{py - down:.1f}L{px + across:.1f},{py + down:.1f}" for px, py in ends)
            return f'<path d="M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}{caps}" fill="none" {stroke}/>'

        self._marks.append(draw)
        self._explain(f'<path d="M11,-11L11,3M7,-11L15,-11M7,3L15,3" fill="none" {stroke}/>', label)

    def cell(self, left: float, right: float, bottom: float, top: float, color: str, note: str, label: str = "") -> None:
        """Fill a rectangle; its note is shown when the mouse points at it."""

        def draw(canvas: _Canvas) -> str:
            (x1, y1), (x2, y2) = canvas.place(left, bottom), canvas.place(right, top)
            shape = f'x="{x1:.1f}" y="{y2:.1f}" width="{x2 - x1:.1f}" height="{y1 - y2:.1f}" fill="{color}"'
            return f'<rect {shape} shape-rendering="crispEdges"><title>{escape(note)}</title></rect>'

        self._marks.append(draw)
        self._explain(f'<rect x="0" y="-10" width="22" height="12" fill="{color}"/>', label)

    def mark(
        self,
        x: float,
        y: float,
        color: str,
        note: str,
        shape: Shape = "dot",
        radius: float = 4,
        ring: str = PAPER,
        label: str = "",
    ) -> None:
        """Draw a dot, a triangle or a cross at a point; its note is shown when the mouse points at it."""

        def draw(canvas: _Canvas) -> str:
            return _shape(*canvas.place(x, y), shape, radius, color, ring, f"<title>{escape(note)}</title>")

        self._marks.append(draw)
        self._explain(_shape(11, -4, shape, min(radius, 7), color, ring), label)

    def text(self, x: float, y: float, text: str, above: float = 10, color: str = INK) -> None:
        """Write a small text, centred `above` pixels above a point, unless it would cover an earlier text."""

        def draw(canvas: _Canvas) -> str:
            across, down = canvas.place(x, y)
            if not canvas.is_free(across, down - above, len(text) * CHARACTER_WIDTH):
                return ""
            return _text(across, down - above, text, size=11, color=color, anchor="middle")

        self._marks.append(draw)

    def render(self, width: int = WIDTH, has_title: bool = True) -> str:
        """Return the SVG; a page draws it without the title, which it writes itself."""
        left = max(float(LEFT), max((len(name) for name in self.y.names), default=0) * CHARACTER_WIDTH + 44)
        legend, num_lines = self._drawn_legend(width, TITLE_HEIGHT if has_title else 0)
        top = (TITLE_HEIGHT if has_title else 0) + LEGEND_LINE * num_lines + 18
        canvas = _Canvas(self.x, self.y, width, top, self._plot_height(), left)
        height = canvas.bottom + BOTTOM
        titles = [
            _text(LEFT, 26, self.title, size=16, color=INK, weight=600),
            _text(LEFT, 44, self.subtitle, size=12, color=FAINT_INK),
        ]
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label={quoteattr(self.title)} font-family="{FONT}">',
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
            *(titles if has_title else []),
            *self._drawn_axes(canvas),
            *(drawn for mark in self._marks if (drawn := mark(canvas))),
            *legend,
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _plot_height(self) -> float:
        rows = len(self.y.names)
        return max(min(PLOT_HEIGHT, ROW_HEIGHT * rows), LEAST_ROW_HEIGHT * rows) if rows else PLOT_HEIGHT

    def _explain(self, sample: str, label: str) -> None:
        if label:
            self._legend.append((sample, label))

    def _drawn_axes(self, canvas: _Canvas) -> list[str]:
        left, right, bottom = canvas.left, canvas.right, canvas.bottom
        parts = []
        for tick in self.y.ticks():
            _, down = canvas.place(self.x.low, tick)
            parts.append(f'<line x1="{left:.1f}" y1="{down:.1f}" x2="{right}" y2="{down:.1f}" stroke="{GRID}"/>')
            parts.append(_text(left - 8, down + 4, self.y.shown(tick), size=12, color=FAINT_INK, anchor="end"))
        axis = replace(canvas, left=0.0, written=[])  # its labels have places of their own, and may begin left of the plot
        for tick in self.x.ticks(most=7 if canvas.width >= WIDTH else 5):
            across, _ = canvas.place(tick, self.y.low)
            parts.append(f'<line x1="{across:.1f}" y1="{bottom}" x2="{across:.1f}" y2="{bottom + 5}" stroke="{FAINT_INK}"/>')
            label = self.x.shown(tick)
            if axis.is_free(across, bottom + 20, (len(label) + 1) * CHARACTER_WIDTH):
                parts.append(_text(across, bottom + 20, label, size=12, color=FAINT_INK, anchor="middle"))
        parts.append(f'<line x1="{left:.1f}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{FAINT_INK}"/>')
        parts.append(_text((left + right) / 2, bottom + 42, self.x.label, size=13, color=INK, anchor="middle"))
        middle = (canvas.top + bottom) / 2
        turned = _text(0, 0, self.y.label, size=13, color=INK, anchor="middle")
        parts.append(f'<g transform="translate(18 {middle:.1f}) rotate(-90)">{turned}</g>')
        return parts

    def _drawn_legend(self, width: int, above: float) -> tuple[list[str], int]:
        """Return the legend below `above` pixels, and the number of its lines."""
        start = LEFT if width >= WIDTH else 12
        parts, across, line = [], float(start), 1
        for sample, label in self._legend:
            taken = 28 + len(label) * CHARACTER_WIDTH
            if across > start and across + taken > width:
                across, line = float(start), line + 1
            words = _text(28, 0, label, size=12, color=INK)
            parts.append(f'<g transform="translate({across:.1f} {above + LEGEND_LINE * line - 4})">{sample}{words}</g>')
            across += taken + 22
        return parts, line if self._legend else 0


def _shape(x: float, y: float, shape: Shape, radius: float, color: str, ring: str, inside: str = "") -> str:
    """Return the SVG of a mark with its centre at these pixels."""
    if shape == "dot":
        fill = f'fill="{color}" stroke="{ring}" stroke-width="2"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {fill}>{inside}</circle>'
    if shape == "triangle":
        points = f"{x - radius:.1f},{y + 0.8 * radius:.1f} {x + radius:.1f},{y + 0.8 * radius:.1f} {x:.1f},{y - radius:.1f}"
        return f'<polygon points="{points}" fill="{color}" stroke="{ring}" stroke-width="2">{inside}</polygon>'
    arms = (
        f"M{x - radius:.1f},{y - radius:.1f}l{2 * radius:g},{2 * radius:g}m{-2 * radius:g},0l{2 * radius:g},{-2 * radius:g}"
    )
    return f'<path d="{arms}" fill="none" stroke="{color}" stroke-width="3">{inside}</path>'


def _text(x: float, y: float, text: str, *, size: int, color: str, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{color}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
