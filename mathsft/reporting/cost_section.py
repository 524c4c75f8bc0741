"""The report's section on cost: what the workers took of time and machine, and how fast they were; from the store alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from mathsft.accounting.concurrency import concurrency
from mathsft.accounting.ledger import cost_ledger
from mathsft.costs import Memory, ScoringCosts, TrainingCosts
from mathsft.records import StepMetrics, WorkerCall
from mathsft.reporting import markdown
from mathsft.store.study_store import StudyStore

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


def ledger_section(store: StudyStore) -> str:
    """Return where the workers' time went, in all runs together; empty where none was held."""
    ledger = cost_ledger(store)
    rows = [
        (account.worker, activity, markdown.seconds(seconds), markdown.percent(seconds / account.held_seconds))
        for account in ledger.worker_times
        if account.held_seconds
        for activity, seconds in account.seconds.items()
    ]
    if not rows:
        return ""
    wasted = (
        f"{markdown.seconds(ledger.pruned_seconds)} in pruned runs, {markdown.seconds(ledger.lost_seconds)} in failed ones"
    )
    spent = f"{ledger.device_hours:.2f} device-hours ({wasted}). {LEDGER_MEANING}"
    return "\n\n".join(("## Ledger", spent, markdown.table(("worker", "activity", "time", "share"), rows, num_left=2)))


TWO_DEVICES_MEANING = (
    "Of the time by the clock from the first piece of work to the last, each driver's life by itself. "
    "Neither starting a worker nor waiting for a turn counts as busy. A checkpoint waits from its publication, or from the "
    "start of the driver that had it scored, until the evaluator is at work on it; each driver's first waits for the engine."
)
WORKERS_MEANING = (
    "Seen every few seconds while the worker was asked for something. Cores are processor seconds by seconds; resident "
    "memory is that of its processes together, those that grade included. Utilisation, energy and device memory are NVML's, "
    "the device's as a whole; without a CUDA device there are none."
)


def two_devices_section(store: StudyStore) -> str:
    """Return how much of the time trainer and evaluator were busy at once, and how long checkpoints waited; may be empty."""
    rows = [
        (
            label,
            markdown.seconds(found.wall_seconds),
            *(markdown.percent(part / found.wall_seconds) for part in (found.trainer_seconds, found.evaluator_seconds)),
            markdown.percent(found.both_busy_share),
            str(len(found.waits)),
            markdown.seconds(found.median_wait_seconds),
            markdown.seconds(found.max_wait_seconds),
        )
        for label, runs in _groups(store).items()
        if (found := concurrency(store, runs)) is not None
    ]
    if not rows:
        return ""
    headers = ("", "time", "trainer busy", "evaluator busy", "both busy", "checkpoints", "median wait", "longest wait")
    return "\n\n".join(("### Two devices", markdown.table(headers, rows), TWO_DEVICES_MEANING))


def workers_section(store: StudyStore) -> str:
    """Return where each worker worked and what it used of the machine; may be empty."""
    worker_calls = store.worker_calls()
    rows = [
        _use_row(label, worker, used)
        for label, runs in _groups(store).items()
        for worker in sorted({call.worker for call in worker_calls if call.run in runs}, reverse=True)  # trainers first
        if (used := [call for call in worker_calls if call.worker == worker and call.run in runs])
    ]
    if not rows:
        return ""
    headers = ("", "worker", "device", "asked for", "cores", "resident memory", "utilisation", "energy", "device memory")
    return "\n\n".join(("### What the workers used", markdown.table(headers, rows, num_left=3), WORKERS_MEANING))


def _groups(store: StudyStore) -> dict[str, list[str]]:
    """Return the runs by what they are shown as: each final run by its name, the latest first, and the study's together."""
    finals = [run.name for run in reversed(store.runs("final"))]
    others = [run.name for run in store.runs() if run.name not in finals]
    return {**{name: [name] for name in finals}, "study": others}


def _use_row(label: str, worker: str, worker_calls: Sequence[WorkerCall]) -> tuple[str, ...]:
    seconds = sum(call.ended - call.began for call in worker_calls)
    shares = [
        (call.device_utilization, call.ended - call.began) for call in worker_calls if call.device_utilization is not None
    ]
    joules = [call.energy_joules for call in worker_calls if call.energy_joules is not None]
    held = [call.device_bytes for call in worker_calls if call.device_bytes is not None]
    places = sorted({worker_place(call) for call in worker_calls})
    return (
        label,
        worker,
        "; ".join(places),
        markdown.seconds(seconds),
        f"{sum(call.cpu_seconds for call in worker_calls) / seconds:.2f}",
        markdown.size(max(call.resident_bytes for call in worker_calls)),
        markdown.percent(sum(share * time for share, time in shares) / sum(time for _, time in shares)) if shares else "",
        f"{sum(joules) / 3600:,.1f} Wh" if joules else "",
        markdown.size(max(held)) if held else "",
    )


def worker_place(call: WorkerCall) -> str:
    """Return where a call's processes worked: "CUDA_VISIBLE_DEVICES=1", "core 0", "all cores"."""
    if call.cuda_visible_devices is not None:
        return markdown.cell(f"CUDA_VISIBLE_DEVICES={call.cuda_visible_devices}")
    if not call.cpus:
        return "all cores"
    return f"core{'s' if len(call.cpus) > 1 else ''} {', '.join(map(str, call.cpus))}"


def _components_table(trained: Mapping[str, Sequence[TrainingCosts]]) -> str:
    """Return what the trainer's predicted memory is for, a run a row; empty where nothing is predicted."""
    rows = [
        (run, *(markdown.size(num_bytes) for num_bytes in asdict(predicted[-1]).values()))
        for run, of_run in trained.items()
        if (predicted := [costs.predicted_memory for costs in of_run if costs.predicted_memory])
    ]
    return markdown.table(("predicted memory", *(field.name for field in fields(Memory))), rows) if rows else ""


def cost_section(store: StudyStore) -> str:
    """Return seconds by activity and memory of trainer and evaluator, and the trainer's speed, run by run."""
    runs = [run.name for run in store.runs()]
    trained = {run: [checkpoint.costs for checkpoint in store.checkpoints(run)] for run in runs}
    scored = {run: [score.costs for score in store.scores(run)] for run in runs}
    tables = [_worker_table("trainer", trained), _worker_table("evaluator", scored)]
    parts = [table for table in tables if table]
    if parts:
        parts += [table for table in (_components_table(trained), MEMORY_MEANING) if table]
    steps = {run: metrics for run in runs if (metrics := store.metrics(run))}
    if steps:
        parts += ["### Training speed", _speed_table(steps), SPEED_MEANING]
    parts += [section for section in (two_devices_section(store), workers_section(store)) if section]
    return "\n\n".join(["## Time and memory", *parts]) if parts else ""


def _worker_table(worker: str, costs: Mapping[str, Sequence[TrainingCosts | ScoringCosts]]) -> str:
    """Return a table of one worker's costs, a run a row; empty where nothing was timed."""
    everything = [cost for of_run in costs.values() for cost in of_run]
    activities = sorted({activity for cost in everything for activity in cost.seconds})
    if not activities:
        return ""
    held = list(_memory(everything))
    rows = [_cost_row(run, of_run, activities, held) for run, of_run in costs.items() if of_run]
    if len(rows) > 1:
        rows.append(_cost_row("**all**", everything, activities, held))
    return markdown.table((worker, *activities, *held), rows)


def _cost_row(
    label: str, costs: Sequence[TrainingCosts | ScoringCosts], activities: Sequence[str], held: Sequence[str]
) -> tuple[str, ...]:
    seconds = (markdown.seconds(sum(cost.seconds.get(activity, 0.0) for cost in costs)) for activity in activities)
    memory = _memory(costs)
    return label, *seconds, *(markdown.size(memory[name]) if name in memory else "" for name in held)


def _memory(costs: Sequence[TrainingCosts | ScoringCosts]) -> dict[str, int]:
    """Return the most memory that is known, as measured and as predicted."""
    measured = [cost.peak_memory_bytes for cost in costs]
    predicted = [cost.predicted_memory.total for cost in costs if isinstance(cost, TrainingCosts) and cost.predicted_memory]
    most = {"peak memory": max(measured, default=0), "predicted memory": max(predicted, default=0)}
    return {name: num_bytes for name, num_bytes in most.items() if num_bytes}


def _speed_table(steps: Mapping[str, Sequence[StepMetrics]]) -> str:
    """Return a table of tokens per second and utilisation, a run a row."""
    rows = [_speed_row(run, of_run) for run, of_run in steps.items()]
    if len(rows) > 1:
        rows.append(_speed_row("**all**", [step for of_run in steps.values() for step in of_run]))
    return markdown.table(("trainer", "useful tokens/s", "computed tokens/s", "FLOP utilisation"), rows)


def _speed_row(label: str, steps: Sequence[StepMetrics]) -> tuple[str, ...]:
    seconds = sum(step.seconds for step in steps)
    tokens = (sum(step.num_tokens for step in steps), sum(step.num_computed_tokens for step in steps))
    used = [(step.flop_utilization, step.seconds) for step in steps if step.flop_utilization is not None]
    # By time: a step that is twice as long counts twice.
    utilization = markdown.percent(sum(share * time for share, time in used) / sum(time for _, time in used)) if used else ""
    return label, *(f"{count / seconds:,.0f}" for count in tokens), utilization
