"""Writes a study's report, report.md and report.html, from its store."""

from pathlib import Path

from mathsft.accounting.ledger import cost_ledger
from mathsft.layout import StudyLayout
from mathsft.reporting import markdown
from mathsft.reporting.answer import answer
from mathsft.reporting.cost_section import cost_section, ledger_section
from mathsft.reporting.figures import ledger_bars
from mathsft.reporting.final_section import final_details, final_sections
from mathsft.reporting.findings import findings_section
from mathsft.reporting.horizon_section import horizon_curves, horizon_section
from mathsft.reporting.html import render_html
from mathsft.reporting.page import Figures, Section, markdown_of
from mathsft.reporting.quality_section import data_section
from mathsft.reporting.study_section import study_section, trials_table
from mathsft.reporting.table import Table
from mathsft.store.study_store import StudyStore

INTERVALS = (
    "In brackets: the 95 % interval of the value before it. A score has Wilson's interval, clustered by problem if a "
    "problem has several responses. Do not compare two scores by their intervals: scores on the same problems are compared "
    "problem by problem."
)


def write_report(store: StudyStore, layout: StudyLayout) -> Path:
    """Write report.md, its figures, and report.html, which contains the figures; return the path of report.html.

    The store may be incomplete: sections without records are left out. The order is that of a reader's questions; what
    repeats for every run is folded.
    """
    figures, title = Figures(layout), markdown.cell(store.study)
    first = "\n\n".join(part for part in (answer(store), findings_section(store), INTERVALS) if part)
    finals = list(reversed(store.runs("final")))  # the latest first
    sections = [section for run in finals for section in final_sections(store, run, figures)]
    sections += [study_section(store, figures)]
    sections += [_headed(horizon_section(store), figures.shown("horizon", horizon_curves(store)))]
    sections += [_headed(ledger_section(store), figures.shown("ledger", ledger_bars(cost_ledger(store))))]
    sections += [section for run in finals for section in final_details(store, run, figures)]
    sections += [trials_table(store), *map(Section.folded, (data_section(store), cost_section(store), _settings(store)))]
    layout.report_markdown.write_text(markdown_of(title, first, sections), encoding="utf-8")
    layout.report_page.write_text(render_html(title, first, sections, figures.charts), encoding="utf-8")
    return layout.report_page


def _headed(headed: str, figure: str) -> Section:
    """Return a section of Markdown that begins with its own heading, or is empty, and a figure."""
    section = Section.folded(headed)
    return Section.of(section.title, section.text, figure)


def _settings(store: StudyStore) -> str:
    rows = ((name, str(value)) for name, value in sorted((store.settings() or {}).items()))
    return markdown.section("## Settings of all runs", Table.of(("setting", "value"), rows).markdown())
