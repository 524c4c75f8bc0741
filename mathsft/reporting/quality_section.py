"""Shows the defects that were found in a study's data: as lines for the terminal, and as a section of the report."""

from mathsft.records import Quality
from mathsft.reporting import markdown
from mathsft.reporting.table import Cell, Part, Table, count, number, text
from mathsft.store.study_store import StudyStore

FREQUENT_GOLDS = "frequent gold answers that are not numbers and may mean that there is no answer"
MAX_GOLDS = 4


def quality_lines(quality: Quality) -> list[str]:
    """Return a line for each kind of defect in the data; most data sets have none."""
    lines = [f"Data: {defect}: {counted}" for defect, counted in _counts(quality) if text(counted) != "0"]
    golds = [f"{gold}: {part}" for gold, part in _golds(quality)]
    return [*lines, f"Data: {FREQUENT_GOLDS}: {'; '.join(golds)}"] if golds else lines


def data_section(store: StudyStore) -> str:
    """Return the number of rows and of defects of each kind; empty if the store has no record of the data."""
    quality = store.quality()
    if quality is None:
        return ""
    golds = ((f"{FREQUENT_GOLDS}: {gold}", part) for gold, part in _golds(quality))
    rows = [("rows read", count(quality.num_rows)), *_counts(quality), *golds]
    return markdown.section("## Data", Table.of(("found in the data", "number"), rows).markdown())


def _counts(quality: Quality) -> list[tuple[str, Cell]]:
    first = f" (the first: {quality.first_unreadable})" if quality.first_unreadable else ""
    in_rows = f" (in {quality.num_contradictory_rows:,} rows)" if quality.num_contradictory else ""
    contradictory = number(quality.num_contradictory, lambda num: f"{num:,}{in_rows}")
    return [
        (f"rows left out because they cannot be read{first}", count(quality.num_unreadable)),
        ("problems left out because their rows have different gold answers", contradictory),
        ("problems removed from all other pools because the test split has them", count(quality.num_overlapping)),
        ("problem texts that are another spelling of a problem and stay in its pool", count(quality.num_variants)),
        ("training rows that are exact copies of another row", count(quality.num_repeated)),
    ]


def _golds(quality: Quality) -> list[tuple[str, Cell]]:
    return [
        (f"{gold.text[:40]!r} (the first in {gold.first})", Part(gold.num_rows, gold.num_all_rows))
        for gold in quality.frequent_golds[:MAX_GOLDS]
    ]
