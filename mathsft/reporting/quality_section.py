"""Shows the defects that were found in a study's data: as lines for the terminal, and as a section of the report."""

from mathsft.records import Quality
from mathsft.reporting import markdown
from mathsft.store.study_store import StudyStore

FREQUENT_GOLDS = "frequent gold answers that are not numbers and may mean that there is no answer"
MAX_GOLDS = 4


def quality_lines(quality: Quality) -> list[str]:
    """Return a line for each kind of defect in the data; most data sets have none."""
    lines = [f"Data: {defect}: {count}" for defect, count in _counts(quality) if count != "0"]
    golds = [f"{gold}: {count}" for gold, count in _golds(quality)]
    return [*lines, f"Data: {FREQUENT_GOLDS}: {'; '.join(golds)}"] if golds else lines


def data_section(store: StudyStore) -> str:
    """Return the number of rows and of defects of each kind; empty if the store has no record of the data."""
    quality = store.quality()
    if quality is None:
        return ""
    golds = [(f"{FREQUENT_GOLDS}: {gold}", count) for gold, count in _golds(quality)]
    rows = [("rows read", f"{quality.num_rows:,}"), *_counts(quality), *golds]
    return "## Data\n\n" + markdown.table(
        ("found in the data", "number"), [(markdown.cell(defect), count) for defect, count in rows]
    )


def _counts(quality: Quality) -> list[tuple[str, str]]:
    first = f" (the first: {quality.first_unreadable})" if quality.first_unreadable else ""
    contradictory = f"{quality.num_contradictory:,}"
    if quality.num_contradictory:
        contradictory += f" (in {quality.num_contradictory_rows:,} rows)"
    return [
        (f"rows left out because they cannot be read{first}", f"{quality.num_unreadable:,}"),
        ("problems left out because their rows have different gold answers", contradictory),
        ("problems removed from all other pools because the test split has them", f"{quality.num_overlapping:,}"),
        ("problem texts that are another spelling of a problem and stay in its pool", f"{quality.num_variants:,}"),
        ("training rows that are exact copies of another row", f"{quality.num_repeated:,}"),
    ]


def _golds(quality: Quality) -> list[tuple[str, str]]:
    return [
        (f"{gold.text[:40]!r} (the first in {gold.first})", f"{gold.num_rows:,} of {gold.num_all_rows:,}")
        for gold in quality.frequent_golds[:MAX_GOLDS]
    ]
