"""mathsft export: writes a run's weights with a model card as a Hugging Face folder, or as an adapter's folder."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mathsft.commands.opening import open_console
from mathsft.commands.show import find_run
from mathsft.commands.stores import named_layout, store_to_read
from mathsft.data.weights import fingerprint, is_adapter, read_adapter
from mathsft.errors import OK, CheckpointError, UserError, disk_full_as_user_error
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Run
from mathsft.reporting.card import write_card
from mathsft.runs.retention import best_step
from mathsft.store.study_store import StudyStore


def run(arguments: argparse.Namespace) -> int:
    """Write the weights of one checkpoint of a run into a new folder, and print its path."""
    console, layout = open_console(), named_layout(arguments.study)
    with store_to_read(arguments.study, arguments.storage) as store:
        run = find_run(store, arguments.run)
        checkpoint = _checkpoint(store, run, layout, arguments.step)
        target = Path(arguments.to).expanduser().absolute() if arguments.to else layout.export(run.name)
        if target.exists():
            raise UserError(f"{target} exists already; remove it, or give another folder with --to")
        source, merges = layout / checkpoint.path, arguments.merge and is_adapter(layout / checkpoint.path)
        with _new_folder(target) as folder:
            if merges:
                _merge(layout.base_weights, source, folder)
            else:
                shutil.copytree(source, folder)
            write_card(store, run, checkpoint, layout, folder)
    kind = "an adapter beside the base model" if is_adapter(target) else "a Hugging Face folder"
    console.print(f"{run.name}, step {checkpoint.step}: {kind} with a model card, which says how to load it, in {target}")
    return OK


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give the body the path of a folder to make, which becomes `target` when the body is done."""
    with disk_full_as_user_error(target, "space for the exported weights"):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
        except OSError as error:
            raise UserError(f"{target}: cannot be made ({error.strerror}); give another folder with --to") from error
        with partial:
            folder = Path(partial.name, target.name)
            yield folder
            folder.rename(target)


def _checkpoint(store: StudyStore, run: Run, layout: StudyLayout, step: int | None) -> Checkpoint:
    """Return the run's checkpoint of this step, else a final run's best, else the last; its weights must be on disk."""
    kept = {one.step: one for one in store.checkpoints(run.name) if (layout / one.path).is_dir()}
    if step is None and run.kind == "final" and (scores := store.scores(run.name, run.plan.pool)):
        step = best_step(scores)
    wanted = max(kept, default=None) if step is None else step
    if wanted not in kept:
        steps = ", ".join(map(str, sorted(kept))) or "none"
        of_step = "" if wanted is None else f" of step {wanted}"
        raise UserError(f"{run.name}: no weights{of_step} are on disk; steps with weights: {steps}")
    checkpoint = kept[wanted]
    if (actual := fingerprint(layout / checkpoint.path)) != checkpoint.fingerprint:
        raise UserError(
            f"{layout / checkpoint.path}: the weights changed: their hash is {actual}, not {checkpoint.fingerprint}"
        )
    return checkpoint


def _merge(base: Path, adapter: Path, target: Path) -> None:
    """Write the merged model in a process of its own, because this one must not import torch."""
    try:
        expected = read_adapter(adapter).base_fingerprint
        actual = fingerprint(base)
    except (CheckpointError, OSError) as error:
        raise UserError(f"--merge: {error}") from error
    if actual != expected:
        raise UserError(f"--merge: the adapter belongs to weights with the hash {expected}, but {base} has {actual}")
    command = [sys.executable, "-m", "mathsft.data.weight_tensors", str(base), str(adapter), str(target)]
    merged = subprocess.run(command, env={**os.environ, "PYTHONUTF8": "1"}, capture_output=True, check=False)
    if merged.returncode != 0:
        errors = merged.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"--merge: the adapter in {adapter} cannot be merged: {errors[-1] if errors else 'no reason given'}")
