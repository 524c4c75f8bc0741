"""The report's section on cost: seconds, memory and speed of the workers, from the records' timings and the steps."""

from collections.abc import Mapping, Sequence

from mathsft.records import StepMetrics
from mathsft.reporting import text
from mathsft.runs.ledger import cost_ledger
from mathsft.store.book import Book

SECONDS, MEMORY = "_seconds", "_memory_bytes"

MEMORY_MEANING = (
    "Predicted memory is what the tensors of the run's largest row take at their peak. Peak memory is on CUDA what was "
    "allocated. On a CPU it is the most that the process ever held, earlier runs, gaps in the heap and compiled kernels "
    "included; the trainer's without what it held before the model was loaded, the evaluator's with all."
)
SPEED_MEANING = (
    "Useful tokens are those of the examples. Computed ones went through the model: with padding, and what examples share "
    "once per row. FLOP utilisation is the rate of the operations that the computed tokens need, as a share of the best "
    "matrix products in the trainer's own process."
)


LEDGER_MEANING = (
    "Of the time that the workers were held. What a killed driver did not live to record is in none of it. Trainer and "
    "evaluator work at once where each has a device; idle is what one waited for the other, for its start, or for the end."
)


def ledger_section(book: Book) -> str:
    """Return where the workers' time went, in all runs together; empty where none was held."""
    ledger = cost_ledger(book)
    rows = [
        (account.worker, activity, text.seconds(seconds), text.percent(seconds / account.held_seconds))
        for account in ledger.accounts
        if account.held_seconds
        for activity, seconds in account.seconds.items()
    ]
    if not rows:
        return ""
    wasted = f"{text.seconds(ledger.pruned_seconds)} in pruned runs, {text.seconds(ledger.lost_seconds)} in failed ones"
    spent = f"{ledger.device_hours:.2f} device-hours ({wasted}). {LEDGER_MEANING}"
    return "\n\n".join(("## Ledger", spent, text.table(("worker", "activity", "time", "share"), rows, num_left=2)))


def cost_section(book: Book) -> str:
    """Return seconds by activity and memory of trainer and evaluator, and the trainer's speed, run by run."""
    runs = [run.name for run in book.runs()]
    trained = {run: [checkpoint.timings for checkpoint in book.checkpoints(run)] for run in runs}
    scored = {run: [score.timings for score in book.scores(run)] for run in runs}
    tables = [_worker_table(worker, timings) for worker, timings in (("trainer", trained), ("evaluator", scored))]
    parts = [table for table in tables if table]
    if parts:
        parts.append(MEMORY_MEANING)
    steps = {run: metrics for run in runs if (metrics := book.metrics(run))}
    if steps:
        parts += ["### Training speed", _speed_table(steps), SPEED_MEANING]
    return "\n\n".join(["## Time and memory", *parts]) if parts else ""


def _worker_table(worker: str, timings: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a table of one worker's costs, a run a row; empty where nothing was timed."""
    everything = [timed for of_run in timings.values() for timed in of_run]
    spent, held = (
        sorted({name for timed in everything for name in timed if name.endswith(end)}) for end in (SECONDS, MEMORY)
    )
    if not spent:
        return ""
    rows = [_cost_row(run, of_run, spent, held) for run, of_run in timings.items() if of_run]
    if len(rows) > 1:
        rows.append(_cost_row("**all**", everything, spent, held))
    titles = (name.removesuffix(SECONDS).removesuffix("_bytes").replace("_", " ") for name in (*spent, *held))
    return text.table((worker, *titles), rows)


def _cost_row(
    label: str, timings: Sequence[Mapping[str, float]], spent: Sequence[str], held: Sequence[str]
) -> tuple[str, ...]:
    seconds = (text.seconds(sum(timed.get(name, 0.0) for timed in timings)) for name in spent)
    most = (max((timed[name] for timed in timings if name in timed), default=None) for name in held)
    return label, *seconds, *(text.size(num_bytes) if num_bytes is not None else "" for num_bytes in most)


def _speed_table(steps: Mapping[str, Sequence[StepMetrics]]) -> str:
    """Return a table of tokens per second and utilisation, a run a row."""
    rows = [_speed_row(run, of_run) for run, of_run in steps.items()]
    if len(rows) > 1:
        rows.append(_speed_row("**all**", [step for of_run in steps.values() for step in of_run]))
    return text.table(("trainer", "useful tokens/s", "computed tokens/s", "FLOP utilisation"), rows)


def _speed_row(label: str, steps: Sequence[StepMetrics]) -> tuple[str, ...]:
    seconds = sum(step.seconds for step in steps)
    tokens = (sum(step.num_tokens for step in steps), sum(step.num_computed_tokens for step in steps))
    used = [(step.flop_utilization, step.seconds) for step in steps if step.flop_utilization is not None]
    # By time: a step that is twice as long counts twice.
    utilization = text.percent(sum(share * time for share, time in used) / sum(time for _, time in used)) if used else ""
    return label, *(f"{count / seconds:,.0f}" for count in tokens), utilization
