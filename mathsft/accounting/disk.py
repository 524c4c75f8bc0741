"""Lists what a study holds on disk, by kind, and deletes kinds that are not needed any more."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mathsft.layout import StudyLayout
from mathsft.records import STATES_WITH_RESULT
from mathsft.runs.retention import deletable
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class Holding:
    """Files and folders of one kind; `free` says why they are not needed, and is empty if they may be needed."""

    kind: str
    paths: tuple[Path, ...]
    num_bytes: int
    free: str = ""


def holdings(store: StudyStore, layout: StudyLayout) -> list[Holding]:
    """Return all files in the study's folder, each in exactly one holding."""
    runs = store.runs()
    checkpoints = [checkpoint for run in runs for checkpoint in store.checkpoints(run.name)]
    unneeded = deletable(runs, checkpoints, store.scores(), store.promotion())
    plain_runs = [replace(run, plan=replace(run.plan, keep_every=None)) for run in runs]
    kept_by_setting = deletable(plain_runs, checkpoints, store.scores(), store.promotion())
    scored = [layout / score.responses_path for score in store.scores()]
    ended = [layout.full_state(run.name) for run in runs if run.state in STATES_WITH_RESULT]
    kinds: list[tuple[str, list[Path], str]] = [
        ("half-written files", layout.half_written(), "left by a killed process"),
        ("weights", [layout / checkpoint.path for checkpoint in unneeded], "scored, and no longer needed"),
        ("training states", ended, "their runs have ended"),
        ("response files", scored, "the database has every response"),
        ("weights that final.keep_every keeps", [layout / checkpoint.path for checkpoint in kept_by_setting], ""),
        ("weights", layout.all_weights(), ""),
        ("training states", layout.all_full_states(), ""),
        ("W&B's files", [layout.wandb], ""),
        ("dashboard artifacts", [layout.artifacts], ""),
        ("database", layout.database_files(), ""),
        ("logs, metrics and reports", [layout.root], ""),
    ]
    counted: set[Path] = set()
    held = []
    for kind, paths, free in kinds:
        files = [file for path in paths for file in _files(path) if file not in counted]
        counted.update(files)
        if files:
            held.append(Holding(kind, tuple(paths), sum(file.lstat().st_size for file in files), free))
    return held


def free(holding: Holding) -> None:
    """Delete a holding that is not needed any more; missing files are ignored."""
    if not holding.free:
        raise ValueError(f"{holding.kind} may still be needed")
    for path in holding.paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if not file.is_dir())
    elif path.exists():
        yield path
