"""Writes the report's sections on a final run's devices and software, and on the source of each of its settings."""

from mathsft import formats
from mathsft.records import Provenance, Run, WorkerCall
from mathsft.reporting import markdown
from mathsft.reporting.cost_section import worker_place
from mathsft.reporting.table import Table
from mathsft.store.study_store import StudyStore

MODEL = {
    "model.path": "model",
    "data.source": "data",
    "task": "task",
    "prompt.template": "prompt",
    "prompt.answer": "answer format",
    "training.precision": "training precision",
    "training.token_budget_tokens": "token budget of a micro-batch",
    "training.gradient_checkpointing": "gradient checkpointing",
    "evaluation.precision": "engine precision",
    "evaluation.temperature": "sampling temperature",
    "evaluation.max_tokens": "maximum tokens of a response",
}


def architecture_section(store: StudyStore, run: Run) -> str:
    """Return the run's processes and devices, model, precision and versions; empty if none of it is recorded."""
    provenance = store.provenance(run.name)
    workers = _workers([call for call in store.worker_calls() if call.run == run.name])
    if provenance is None and not workers:
        return ""
    parts = ["### Processes, devices and software"]
    if workers:
        parts.append(
            "One driver process alone writes to the database. Each worker has its own process: the trainer publishes "
            "checkpoints on disk, and the evaluator scores them. Devices were assigned before the processes started."
        )
        parts.append(Table.of(("worker", "device", "work"), workers).markdown())
    if provenance is not None:
        parts.append(Table.of(("", ""), _environment(provenance).items()).markdown())
    return "\n\n".join(parts)


def settings_section(store: StudyStore, run: Run) -> str:
    """Return the settings that the run overrides, with the source of each; empty if it overrides none."""
    promotion, settings = store.promotion(), store.settings() or {}
    rows = []
    for name, value in sorted(run.overrides.items()):
        source = "set by the user"
        if promotion is not None and name in promotion.overrides:
            promoted = promotion.overrides[name]
            source = f"promoted by the study ({promotion.run})"
            if promoted != value:
                source = f"set by the user or by --horizon adjust; the promoted value is {formats.value(promoted)}"
        rows.append((name, formats.value(value), _searched(name, settings), source))
    headers = ("setting", "value", "searched range", "source")
    return markdown.section("### Settings and their sources", Table.of(headers, rows).markdown())


def _workers(worker_calls: list[WorkerCall]) -> list[tuple[str, str, str]]:
    """Return each worker's name, its devices, and its last step or its number of scores."""
    rows = []
    for name in sorted({call.worker for call in worker_calls}, reverse=True):  # trainers first
        own = [call for call in worker_calls if call.worker == name]
        places = "; ".join(sorted({worker_place(call) for call in own}))
        num_scored = sum(bool(call.pool) for call in own)
        work = f"{num_scored} scores" if num_scored else f"training to step {max(call.step for call in own)}"
        rows.append((name, places, work))
    return rows


def _environment(provenance: Provenance) -> dict[str, str]:
    settings = {label: str(provenance.settings[name]) for name, label in MODEL.items() if name in provenance.settings}
    versions = ", ".join(f"{package} {number}" for package, number in provenance.versions.items())
    commit = provenance.commit + (" and uncommitted changes" if provenance.diff else "")
    return {**settings, "devices": provenance.device, "versions": versions, "commit": commit or "not a git checkout"}


def _searched(name: str, settings: dict[str, object]) -> str:
    """Return the range in which a setting was searched; empty if it was not searched."""
    prefix = f"search.{name}."
    fields = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    if "choices" in fields:
        choices = fields["choices"]
        return ", ".join(map(str, choices)) if isinstance(choices, list) else str(choices)
    if "low" in fields:
        return f"{fields['low']} to {fields['high']}" + (", log scale" if fields.get("log") else "")
    return ""
