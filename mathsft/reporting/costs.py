"""The report's section on cost: seconds and peak memory of trainer and evaluator, from the records' timings."""

from collections.abc import Mapping, Sequence

from mathsft.reporting import text
from mathsft.store.book import Book

SECONDS, PEAK_MEMORY = "_seconds", "peak_memory_bytes"


def cost_section(book: Book) -> str:
    """Return the seconds by activity and the peak memory of the trainer and the evaluator, for each run and in all."""
    runs = [run.name for run in book.runs()]
    trained = {run: [checkpoint.timings for checkpoint in book.checkpoints(run)] for run in runs}
    scored = {run: [score.timings for score in book.scores(run)] for run in runs}
    parts = [_worker_table(worker, timings) for worker, timings in (("trainer", trained), ("evaluator", scored))]
    parts = [part for part in parts if part]
    return "\n\n".join(["## Time and memory", *parts]) if parts else ""


def _worker_table(worker: str, timings: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a table of one worker's costs, a run a row; empty where nothing was timed."""
    everything = [timed for of_run in timings.values() for timed in of_run]
    names = sorted({name for timed in everything for name in timed if name.endswith(SECONDS)})
    if not names:
        return ""
    rows = [_cost_row(run, of_run, names) for run, of_run in timings.items() if of_run]
    if len(rows) > 1:
        rows.append(_cost_row("**all**", everything, names))
    headers = (worker, *(name.removesuffix(SECONDS).replace("_", " ") for name in names), "peak memory")
    return text.table(headers, rows)


def _cost_row(label: str, timings: Sequence[Mapping[str, float]], names: Sequence[str]) -> tuple[str, ...]:
    spent = (text.seconds(sum(timed.get(name, 0.0) for timed in timings)) for name in names)
    peak = max((timed[PEAK_MEMORY] for timed in timings if PEAK_MEMORY in timed), default=None)
    return label, *spent, text.size(peak) if peak is not None else ""
