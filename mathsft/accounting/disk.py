"""Lists what a study holds on disk, by kind, and deletes kinds that are not needed any more."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mathsft.layout import StudyLayout
from mathsft.runs.retention import delete_paths, unneeded_states, unneeded_weights
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class DiskUse:
    """Files and folders of one kind; `free` says why they are not needed, and is empty if they may be needed."""

    kind: str
    paths: tuple[Path, ...]
    num_bytes: int
    free: str = ""


def disk_uses(store: StudyStore, layout: StudyLayout) -> list[DiskUse]:
    """Return all files in the study's folder, each in exactly one DiskUse."""
    runs = store.runs()
    plain_runs = [replace(run, plan=replace(run.plan, keep_every=None)) for run in runs]
    kinds: list[tuple[str, list[Path], str]] = [
        ("half-written files", layout.half_written(), "left by a killed process"),
        ("weights", unneeded_weights(runs, store, layout), "scored, and no longer needed"),
        ("training states", unneeded_states(runs, layout), "their runs have ended"),
        ("response files", [layout / score.responses_path for score in store.scores()], "the database has every response"),
        ("weights that final.keep_every keeps", unneeded_weights(plain_runs, store, layout), ""),
        ("weights", layout.all_weights(), ""),
        ("training states", layout.all_full_states(), ""),
        ("base model's weights, for adapters", [layout.base_weights], ""),
        ("exports", [layout.exports], ""),
        ("W&B's files", [layout.wandb], ""),
        ("dashboard artifacts", [layout.artifacts], ""),
        ("database", layout.database_files(), ""),
        ("logs, metrics and reports", [layout.root], ""),
    ]
    counted: set[Path] = set()
    uses = []
    for kind, paths, free in kinds:
        files = [file for path in paths for file in _files(path) if file not in counted]
        counted.update(files)
        if files:
            uses.append(DiskUse(kind, tuple(paths), sum(file.lstat().st_size for file in files), free))
    return uses


def delete(use: DiskUse) -> None:
    """Delete files that are not needed any more; missing ones are ignored."""
    if not use.free:
        raise ValueError(f"{use.kind} may still be needed")
    delete_paths(use.paths)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if not file.is_dir())
    elif path.exists():
        yield path
