"""Says what was found in a study's data when they were read: lines for the terminal, a section for the report."""

from mathsft.records import Quality
from mathsft.reporting import markdown
from mathsft.store.study_store import StudyStore

FREQUENT_GOLDS = "gold answers that are no numbers and may stand for none"
MAX_GOLDS = 4


def quality_lines(quality: Quality) -> list[str]:
    """Return a line for all that is not as it should be in the data; none for most data sets."""
    lines = [f"Data: {what}: {count}" for what, count in _counts(quality) if count != "0"]
    golds = [f"{gold}: {count}" for gold, count in _golds(quality)]
    return [*lines, f"Data: {FREQUENT_GOLDS}: {'; '.join(golds)}"] if golds else lines


def data_section(store: StudyStore) -> str:
    """Return what was found in the data; empty where nothing is known."""
    quality = store.quality()
    if quality is None:
        return ""
    golds = [(f"{FREQUENT_GOLDS}: {gold}", count) for gold, count in _golds(quality)]
    rows = [("rows read", f"{quality.num_rows:,}"), *_counts(quality), *golds]
    return "## Data\n\n" + markdown.table(
        ("found in the data", "number"), [(markdown.cell(what), count) for what, count in rows]
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
        ("texts that are another spelling of a problem, and stay in its pool", f"{quality.num_variants:,}"),
        ("rows to train on that repeat another one exactly", f"{quality.num_repeated:,}"),
    ]


def _golds(quality: Quality) -> list[tuple[str, str]]:
    return [
        (f"{gold.text[:40]!r} (the first in {gold.first})", f"{gold.num_rows:,} of {gold.num_all_rows:,}")
        for gold in quality.frequent_golds[:MAX_GOLDS]
    ]
