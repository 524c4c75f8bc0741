"""Draws a chart as SVG: two axes with ticks, and lines, bands, cells, dots and texts in data units."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 90, 56
INK, FAINT_INK, GRID, PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
CHARACTER_WIDTH, TEXT_HEIGHT = 6.6, 14


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

    def share(self, value: float) -> float:
        """Return the position of a value between the ends: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the values of the ticks between the ends."""
        ticks = self.marks or (self._log_ticks() if self.log else self._linear_ticks())
        return [tick for tick in ticks if -1e-9 <= self.share(tick) <= 1 + 1e-9]

    def _linear_ticks(self) -> list[float]:
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        spacing = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / spacing - 1e-9)
        return [spacing * index for index in range(first, math.floor(self.high / spacing + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1,) if self.high / self.low > 1e4 else (1, 2, 5)
        return [factor * 10.0**power for power in powers for factor in factors]


@dataclass
class Chart:
    """A chart: its methods draw in the order of their calls, in the units of the axes; render returns the SVG."""

    title: str
    x: Axis
    y: Axis
    subtitle: str
    _marks: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str]] = field(default_factory=list)
    _written: list[tuple[float, float]] = field(default_factory=list)

    def line(
        self, points: Sequence[tuple[float, float]], color: str, label: str = "", dashes: str = "", width: float = 2
    ) -> None:
        """Draw a line through the points."""
        stroke = f'stroke="{color}" stroke-width="{width:g}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")
        self._marks.append(f'<polyline points="{self._path(points)}" fill="none" {stroke}/>')
        self._explain(f'<line x1="0" y1="-4" x2="22" y2="-4" {stroke}/>', label)

    def band(
        self,
        lower: Sequence[tuple[float, float]],
        upper: Sequence[tuple[float, float]],
        color: str,
        label: str = "",
        opacity: float = 0.16,
    ) -> None:
        """Fill the area between two lines."""
        fill = f'fill="{color}" fill-opacity="{opacity:g}"'
        self._marks.append(f'<polygon points="{self._path([*lower, *reversed(upper)])}" {fill}/>')
        self._explain(f'<rect x="0" y="-10" width="22" height="12" {fill}/>', label)

    def cell(self, left: float, right: float, bottom: float, top: float, color: str, note: str) -> None:
        """Fill a rectangle; its note is shown when the mouse points at it."""
        (x1, y1), (x2, y2) = self._place(left, bottom), self._place(right, top)
        shape = f'x="{x1:.1f}" y="{y2:.1f}" width="{x2 - x1:.1f}" height="{y1 - y2:.1f}" fill="{color}"'
        self._marks.append(f"<rect {shape}><title>{escape(note)}</title></rect>")

    def dot(self, x: float, y: float, color: str, note: str, radius: float = 4, ring: str = PAPER, label: str = "") -> None:
        """Draw a dot; its note is shown when the mouse points at it."""
        shape = f'r="{radius:g}" fill="{color}" stroke="{ring}" stroke-width="2"'
        across, down = self._place(x, y)
        self._marks.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" {shape}><title>{escape(note)}</title></circle>')
        self._explain(f'<circle cx="11" cy="-4" {shape}/>', label)

    def text(self, x: float, y: float, text: str, above: float = 10) -> None:
        """Write a small text, centred `above` pixels above a point, unless it would cover an earlier text."""
        across, down = self._place(x, y)
        width = len(text) * CHARACTER_WIDTH
        if any(abs(across - other) < width and abs(down - height) < TEXT_HEIGHT for other, height in self._written):
            return
        self._written.append((across, down))
        self._marks.append(_text(across, down - above, text, size=11, color=INK, anchor="middle"))

    def render(self) -> str:
        """Return the content of the SVG file."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" aria-label={quoteattr(self.title)} font-family="{FONT}">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
            _text(LEFT, 26, self.title, size=16, color=INK, weight=600),
            _text(LEFT, 44, self.subtitle, size=12, color=FAINT_INK),
            *self._drawn_axes(),
            *self._marks,
            *self._drawn_legend(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _explain(self, sample: str, label: str) -> None:
        if label:
            self._legend.append((sample, label))

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixels of a point."""
        return LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM)

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{across:.1f},{down:.1f}" for across, down in (self._place(x, y) for x, y in points))

    def _drawn_axes(self) -> list[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for tick in self.y.ticks():
            _, down = self._place(self.x.low, tick)
            parts.append(f'<line x1="{LEFT}" y1="{down:.1f}" x2="{right}" y2="{down:.1f}" stroke="{GRID}"/>')
            parts.append(_text(LEFT - 8, down + 4, self.y.form(tick), size=12, color=FAINT_INK, anchor="end"))
        for tick in self.x.ticks():
            across, _ = self._place(tick, self.y.low)
            parts.append(f'<line x1="{across:.1f}" y1="{bottom}" x2="{across:.1f}" y2="{bottom + 5}" stroke="{FAINT_INK}"/>')
            parts.append(_text(across, bottom + 20, self.x.form(tick), size=12, color=FAINT_INK, anchor="middle"))
        parts.append(f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{FAINT_INK}"/>')
        parts.append(_text((LEFT + right) / 2, HEIGHT - 14, self.x.label, size=13, color=INK, anchor="middle"))
        middle = (TOP + bottom) / 2
        turned = _text(0, 0, self.y.label, size=13, color=INK, anchor="middle")
        parts.append(f'<g transform="translate(18 {middle:.1f}) rotate(-90)">{turned}</g>')
        return parts

    def _drawn_legend(self) -> list[str]:
        parts, across = [], float(LEFT)
        for sample, label in self._legend:
            words = _text(28, 0, label, size=12, color=INK)
            parts.append(f'<g transform="translate({across:.1f} {TOP - 22})">{sample}{words}</g>')
            across += 28 + len(label) * CHARACTER_WIDTH + 22
        return parts


def _text(x: float, y: float, text: str, *, size: int, color: str, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{color}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
