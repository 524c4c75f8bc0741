"""Shows what was found in a study's data: as lines for the terminal, and as a section of the report."""

from collections.abc import Mapping

from mathsft.records import Finding, FindingKind, Quality
from mathsft.reporting import markdown
from mathsft.reporting.table import Cell, Table, count, number
from mathsft.store.study_store import StudyStore

TEXTS: Mapping[FindingKind, str] = {
    "unreadable": "rows left out because they cannot be read",
    "contradictory": "problems left out because their rows have different gold answers",
    "in_test": "problems removed from all other pools because the test split has them",
    "near_copy": "problems left out of train because they share 80 % of their 13-grams with a problem of another pool",
    "wrong": "solutions left out of train because they end with another answer than the gold answer",
    "variant": "problem texts that are another spelling of a problem and stay in its pool",
    "repeated": "training rows that are exact copies of another row",
    "system": "rows with a system turn, which is not used (prompt.system sets one for all)",
    "frequent": "frequent gold answers that are not numbers and may mean that there is no answer",
    "too_long": "training examples left out because they are longer than training.max_length_tokens",
}
"""What each kind of finding is, and what happens to it."""
_WITH_EXAMPLE: tuple[FindingKind, ...] = ("unreadable", "frequent")
"""Kinds whose first example is always shown: the reason, or the text, says whether they matter."""


def quality_lines(quality: Quality) -> list[str]:
    """Return a line for each kind of defect in the data; most data sets have none."""
    return [f"Data: {_description(finding)}: {count_text(finding)}" for finding in quality.findings]


def data_section(store: StudyStore) -> str:
    """Return the number of rows and of defects of each kind; empty if the store has no record of the data."""
    quality = store.quality()
    if quality is None:
        return ""
    # The trainer counts tokens, and a run may have a limit of its own: the report shows the largest count.
    checkpoints = [checkpoint for run in store.runs() for checkpoint in store.checkpoints(run.name)]
    num_too_long = max((checkpoint.costs.num_too_long for checkpoint in checkpoints), default=0)
    too_long = [Finding("too_long", num_too_long, num_too_long, ())] if num_too_long else []
    rows = (("rows read", count(quality.num_rows)), *map(_row, (*quality.findings, *too_long)))
    return markdown.section("## Data", Table.of(("found in the data", "number"), rows).markdown())


def count_text(finding: Finding) -> str:
    """Return the count, with the number of rows if it is another one."""
    rows = f" (in {finding.num_rows:,} rows)" if finding.num_rows != finding.count else ""
    return f"{finding.count:,}{rows}"


def _row(finding: Finding) -> tuple[str, Cell]:
    return _description(finding), number(finding.count, lambda _: count_text(finding))


def _description(finding: Finding) -> str:
    first = f" (the first: {finding.examples[0]})" if finding.kind in _WITH_EXAMPLE else ""
    return TEXTS[finding.kind] + first
