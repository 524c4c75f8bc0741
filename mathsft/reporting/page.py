"""Collects a report's sections and figures, and writes them as report.md with SVG files, and as one page, report.html."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mathsft.layout import StudyLayout
from mathsft.reporting.svg import Chart


@dataclass(frozen=True)
class Section:
    """A part of a report with its heading; a folded one shows only its heading until the reader opens it."""

    title: str
    text: str
    """Markdown, with headings of level 3 and below; a section without text is left out."""
    is_folded: bool = False

    @classmethod
    def of(cls, title: str, *parts: str, is_folded: bool = False) -> "Section":
        """Return a section of the parts that are not empty."""
        return cls(title, "\n\n".join(part for part in parts if part), is_folded)

    @classmethod
    def folded(cls, headed: str) -> "Section":
        """Return a folded section of Markdown that begins with its own heading of any level, or is empty."""
        heading, _, text = headed.partition("\n")
        return cls(heading.lstrip("# "), text.strip(), is_folded=True)


@dataclass
class Figures:
    """The figures of a report by name. `shown` writes each one beside report.md."""

    layout: StudyLayout
    charts: dict[str, Chart] = field(default_factory=dict)

    def shown(self, name: str, chart: Chart | None) -> str:
        """Write the file of a figure and return the Markdown that shows it with its caption; empty without a figure."""
        if chart is None:
            return ""
        self.layout.figure(name).write_text(chart.render(), encoding="utf-8")
        self.charts[name] = chart
        return f"![{name}]({name}.svg)\n\n*{chart.caption}*"


def markdown_of(title: str, answer: str, sections: Sequence[Section]) -> str:
    """Return the whole report as Markdown, in which no section is folded."""
    parts = [f"# {title}", answer, *(f"## {section.title}\n\n{section.text}" for section in sections if section.text)]
    return "\n\n".join(parts) + "\n"
