"""The report's sections on a final run's origin: what it ran on, and where each of its settings comes from."""

from mathsft.records import Provenance, Run, WorkerCall
from mathsft.reporting import markdown
from mathsft.reporting.cost_section import worker_place
from mathsft.store.study_store import StudyStore

MODEL = {
    "model.path": "model",
    "data.source": "data",
    "prompt.template": "prompt",
    "training.precision": "precision of training",
    "training.token_budget_tokens": "tokens computed at once",
    "training.gradient_checkpointing": "gradient checkpointing",
    "evaluation.precision": "precision of the engine",
    "evaluation.temperature": "sampling temperature",
    "evaluation.max_tokens": "longest response",
}


def architecture_section(store: StudyStore, run: Run) -> str:
    """Return what the run ran on: processes with their devices, model, precision, versions; empty where nothing is known."""
    provenance = store.provenance(run.name)
    workers = _workers([call for call in store.worker_calls() if call.run == run.name])
    if provenance is None and not workers:
        return ""
    parts = ["### Architecture as run"]
    if workers:
        parts.append(
            "One driver, the only writer of the database, and a process for each worker: the trainer publishes checkpoints "
            "on disk, the evaluator scores them. Devices were assigned before the processes started."
        )
        rows = [(name, places, steps) for name, (places, steps) in workers.items()]
        parts.append(markdown.table(("worker", "device", "worked on"), rows, num_left=3))
    if provenance is not None:
        parts.append(
            markdown.table(
                ("", ""), [(name, markdown.cell(value)) for name, value in _facts(provenance).items()], num_left=2
            )
        )
    return "\n\n".join(parts)


def settings_section(store: StudyStore, run: Run) -> str:
    """Return the run's own settings with where each comes from; empty where it has the experiment's alone."""
    if not run.overrides:
        return ""
    promotion = store.promotion()
    promoted = promotion.overrides if promotion is not None else {}
    known = store.settings() or {}
    rows = []
    for name, value in sorted(run.overrides.items()):
        if name in promoted and promoted[name] == value:
            source = f"promoted by the study ({promotion.run})" if promotion is not None else ""
        elif name in promoted:
            source = f"given by hand or by the horizon, instead of the promoted {markdown.value(promoted[name])}"
        else:
            source = "given by hand"
        rows.append(
            (markdown.cell(name), markdown.cell(markdown.value(value)), markdown.cell(_searched(name, known)), source)
        )
    headers = ("setting", "value", "searched", "where it comes from")
    return "### Its settings, and where they come from\n\n" + markdown.table(headers, rows, num_left=4)


def _workers(worker_calls: list[WorkerCall]) -> dict[str, tuple[str, str]]:
    """Return, by worker, its devices and how many steps or scores it worked on."""
    found = {}
    for name in sorted({call.worker for call in worker_calls}, reverse=True):  # trainers first
        own = [call for call in worker_calls if call.worker == name]
        places = "; ".join(sorted({worker_place(call) for call in own}))
        num_scored = sum(bool(call.pool) for call in own)
        work = f"{num_scored} scores" if num_scored else f"training to step {max(call.step for call in own)}"
        found[name] = places, work
    return found


def _facts(provenance: Provenance) -> dict[str, str]:
    settings = {label: str(provenance.settings[name]) for name, label in MODEL.items() if name in provenance.settings}
    versions = ", ".join(f"{package} {number}" for package, number in provenance.versions.items())
    commit = provenance.commit + (" and uncommitted changes" if provenance.diff else "")
    return {**settings, "devices": provenance.device, "versions": versions, "commit": commit or "not a git checkout"}


def _searched(name: str, settings: dict[str, object]) -> str:
    """Return a setting's searched range in words; empty where it was not searched."""
    prefix = f"search.{name}."
    given = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    if "choices" in given:
        choices = given["choices"]
        return ", ".join(map(str, choices)) if isinstance(choices, list) else str(choices)
    if "low" in given:
        return f"{given['low']} to {given['high']}" + (", by its logarithm" if given.get("log") else "")
    return ""
