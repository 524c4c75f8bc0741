"""Writes the report's sections on cost: the workers' time, memory and speed, and their use of the machine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields

from mathsft.accounting.concurrency import concurrency
from mathsft.accounting.ledger import Ledger, cost_ledger
from mathsft.costs import Memory, ScoringCosts, TrainingCosts
from mathsft.records import StepMetrics, WorkerCall
from mathsft.reporting import markdown
from mathsft.reporting.table import Cell, Number, Table, number, percent, seconds, size
from mathsft.store.study_store import StudyStore

MEMORY_MEANING = (
    "Predicted memory is the peak size of the tensors for the run's largest row. Peak memory on CUDA is the memory that was "
    "allocated. On a CPU it is the most memory that the process has held so far, which includes earlier runs, gaps in the "
    "heap and compiled kernels. The trainer's value leaves out the memory that its process held before it loaded the model; "
    "the evaluator's value is the whole process."
)
SPEED_MEANING = (
    "Useful tokens are the tokens of the examples. Computed tokens went through the model: padding counts, and tokens that "
    "examples share count once per row. FLOP utilisation is the rate of the operations that the computed tokens need, "
    "divided by the best rate of matrix products that was measured in the trainer's process."
)
LEDGER_MEANING = (
    "Shares are of the time that the workers were held, without the time that a killed driver could not record. Trainer "
    "and evaluator work at the same time if each has a device. A worker is idle while it waits for the other worker, for "
    "its own start, or for the end of the command."
)
TWO_DEVICES_MEANING = (
    "Shares are of the wall-clock time from the first piece of work to the last, without the time between two drivers. A "
    "worker that starts or waits for its turn is not busy. A checkpoint's wait begins when it is published, or when the "
    "driver that asks for its score starts, if that is later. The wait ends when the evaluator begins to score the "
    "checkpoint. For each driver's first checkpoint it includes the start of the engine."
)
WORKERS_MEANING = (
    "Measured every few seconds while the worker had a call. Cores are processor seconds divided by wall-clock seconds. "
    "Resident memory is the largest sum over the worker's processes, which include the grading processes. Utilisation, "
    "energy and device memory are NVML's values for the whole device; without a CUDA device they are empty."
)


def ledger_section(store: StudyStore) -> str:
    """Return the workers' time by activity, all runs together; empty if no worker was held."""
    ledger = cost_ledger(store)
    meaning = f"{markdown.device_hours(ledger)}. {LEDGER_MEANING}"
    return markdown.section("## Cost", meaning, ledger_table(ledger).markdown())


def ledger_table(ledger: Ledger) -> Table:
    """Return the workers' time by activity, all runs together."""
    rows = (
        (account.worker, activity, seconds(spent), percent(spent / account.held_seconds))
        for account in ledger.worker_times
        if account.held_seconds
        for activity, spent in account.seconds.items()
    )
    gain = ledger.points_per_device_hour
    per_hour = "" if gain is None else f"; {gain:+.1f} points of accuracy per device-hour"
    return Table.of(("worker", "activity", "time", "share"), rows, f"Cost: {markdown.device_hours(ledger)}{per_hour}")


def cost_section(store: StudyStore) -> str:
    """Return the workers' seconds by activity and memory, the trainer's speed, and the use of the machine, run by run."""
    runs = [run.name for run in store.runs()]
    trained = {run: [checkpoint.costs for checkpoint in store.checkpoints(run)] for run in runs}
    scored = {run: [score.costs for score in store.scores(run)] for run in runs}
    parts = [table for table in (_worker_table("trainer", trained), _worker_table("evaluator", scored)) if table]
    if parts:
        parts += [_components_table(trained), MEMORY_MEANING]
    steps = {run: metrics for run in runs if (metrics := store.metrics(run))}
    if steps:
        parts += ["### Training speed", _speed_table(steps), SPEED_MEANING]
    parts += [two_devices_section(store), workers_section(store)]
    return "\n\n".join(part for part in ("## Time and memory", *parts) if part) if any(parts) else ""


def two_devices_section(store: StudyStore) -> str:
    """Return how long trainer and evaluator were busy at the same time, and how long checkpoints waited.

    Empty if no checkpoint is scored.
    """
    rows = (
        (
            label,
            seconds(busy.wall_seconds),
            *(percent(part / busy.wall_seconds) for part in (busy.trainer_seconds, busy.evaluator_seconds)),
            percent(busy.both_busy_share),
            len(busy.waits),
            seconds(busy.median_wait_seconds),
            seconds(busy.max_wait_seconds),
        )
        for label, runs in _groups(store).items()
        if (busy := concurrency(store, runs)) is not None
    )
    headers = ("", "wall time", "trainer busy", "evaluator busy", "both busy", "checkpoints", "median wait", "longest wait")
    return markdown.section(
        "### Concurrency of trainer and evaluator", Table.of(headers, rows).markdown(), TWO_DEVICES_MEANING
    )


def workers_section(store: StudyStore) -> str:
    """Return the device of each worker and its use of the machine; empty if no worker was called."""
    worker_calls = store.worker_calls()
    rows = (
        _use_row(label, worker, used)
        for label, runs in _groups(store).items()
        for worker in sorted({call.worker for call in worker_calls if call.run in runs}, reverse=True)  # trainers first
        if (used := [call for call in worker_calls if call.worker == worker and call.run in runs])
    )
    headers = ("", "worker", "device", "time in calls", "cores", "resident memory", "utilisation", "energy", "device memory")
    return markdown.section("### Resources that the workers used", Table.of(headers, rows).markdown(), WORKERS_MEANING)


def worker_place(call: WorkerCall) -> str:
    """Return where a call's processes worked: "CUDA_VISIBLE_DEVICES=1", "core 0", "all cores"."""
    if call.cuda_visible_devices is not None:
        return f"CUDA_VISIBLE_DEVICES={call.cuda_visible_devices}"
    if not call.cpus:
        return "all cores"
    return f"core{'s' if len(call.cpus) > 1 else ''} {', '.join(map(str, call.cpus))}"


def _groups(store: StudyStore) -> dict[str, list[str]]:
    """Return run names by label: each final run under its own name, the latest first, and all other runs under "study"."""
    finals = [run.name for run in reversed(store.runs("final"))]
    others = [run.name for run in store.runs() if run.name not in finals]
    return {**{name: [name] for name in finals}, "study": others}


def _use_row(label: str, worker: str, worker_calls: Sequence[WorkerCall]) -> tuple[Cell, ...]:
    held_seconds = sum(call.ended - call.began for call in worker_calls)
    joules = [call.energy_joules for call in worker_calls if call.energy_joules is not None]
    device_bytes = [call.device_bytes for call in worker_calls if call.device_bytes is not None]
    return (
        label,
        worker,
        "; ".join(sorted({worker_place(call) for call in worker_calls})),
        seconds(held_seconds),
        Number(sum(call.cpu_seconds for call in worker_calls) / held_seconds, "{:.2f}".format),
        size(max(call.resident_bytes for call in worker_calls)),
        _mean_share((call.device_utilization, call.ended - call.began) for call in worker_calls),
        number(sum(joules) / 3600 if joules else None, "{:,.1f} Wh".format),
        size(max(device_bytes, default=None)),
    )


def _mean_share(shares: Iterable[tuple[float | None, float]]) -> Cell:
    """Return the mean of the known shares, each weighted by its seconds; None if none is known."""
    known = [(share, weight) for share, weight in shares if share is not None]
    return percent(sum(share * weight for share, weight in known) / sum(weight for _, weight in known)) if known else None


def _components_table(trained: Mapping[str, Sequence[TrainingCosts]]) -> str:
    """Return the components of the trainer's predicted memory, a row per run; empty if nothing is predicted."""
    rows = (
        (run, *map(size, asdict(predicted[-1]).values()))
        for run, of_run in trained.items()
        if (predicted := [costs.predicted_memory for costs in of_run if costs.predicted_memory])
    )
    return Table.of(("predicted memory", *(field.name for field in fields(Memory))), rows).markdown()


def _worker_table(worker: str, costs: Mapping[str, Sequence[TrainingCosts | ScoringCosts]]) -> str:
    """Return one worker's costs, a row per run; empty if nothing was timed."""
    everything = [cost for of_run in costs.values() for cost in of_run]
    activities = sorted({activity for cost in everything for activity in cost.seconds})
    if not activities:
        return ""
    columns = list(_memory(everything))
    rows: list[tuple[Cell, ...]] = [_cost_row(run, of_run, activities, columns) for run, of_run in costs.items() if of_run]
    if len(rows) > 1:
        rows.append(_cost_row("**all**", everything, activities, columns))
    return Table.of((worker, *activities, *columns), rows).markdown()


def _cost_row(
    label: str, costs: Sequence[TrainingCosts | ScoringCosts], activities: Sequence[str], columns: Sequence[str]
) -> tuple[Cell, ...]:
    spent = (seconds(sum(cost.seconds.get(activity, 0.0) for cost in costs)) for activity in activities)
    memory = _memory(costs)
    return label, *spent, *(size(memory.get(name)) for name in columns)


def _memory(costs: Sequence[TrainingCosts | ScoringCosts]) -> dict[str, int]:
    """Return the largest measured and the largest predicted memory, without those that are not known."""
    measured = [cost.peak_memory_bytes for cost in costs]
    predicted = [cost.predicted_memory.total for cost in costs if isinstance(cost, TrainingCosts) and cost.predicted_memory]
    most = {"peak memory": max(measured, default=0), "predicted memory": max(predicted, default=0)}
    return {name: num_bytes for name, num_bytes in most.items() if num_bytes}


def _speed_table(steps: Mapping[str, Sequence[StepMetrics]]) -> str:
    """Return tokens per second and utilisation, a row per run."""
    rows = [_speed_row(run, of_run) for run, of_run in steps.items()]
    if len(rows) > 1:
        rows.append(_speed_row("**all**", [step for of_run in steps.values() for step in of_run]))
    return Table.of(("trainer", "useful tokens/s", "computed tokens/s", "FLOP utilisation"), rows).markdown()


def _speed_row(label: str, steps: Sequence[StepMetrics]) -> tuple[Cell, ...]:
    spent = sum(step.seconds for step in steps)
    tokens = (sum(step.num_tokens for step in steps), sum(step.num_computed_tokens for step in steps))
    utilization = _mean_share((step.flop_utilization, step.seconds) for step in steps)
    return label, *(Number(num / spent, "{:,.0f}".format) for num in tokens), utilization
