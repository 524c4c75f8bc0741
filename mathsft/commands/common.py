"""Shared by the commands: access to the study's folder and store, checks and placement, observers, the asyncio loop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mathsft.accounting.forecast import is_memory_short
from mathsft.accounting.ledger import Timekeeper
from mathsft.commands.opening import Opening
from mathsft.config.files import results_folder
from mathsft.config.load import Loaded
from mathsft.config.schema import Experiment
from mathsft.data.examples import load_template
from mathsft.data.model_check import check_model
from mathsft.data.models import resolve_model, resolving
from mathsft.data.pools import LoadedData, Pools, load_data
from mathsft.errors import UserError
from mathsft.interrupts import cancelling
from mathsft.invocation import command
from mathsft.layout import StudyLayout
from mathsft.reporting.quality_section import quality_lines
from mathsft.runs.provenance import ProvenanceRecorder, check_data
from mathsft.store.lock import locked
from mathsft.store.study_store import StudyStore
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.tracking.live import LiveProgress
from mathsft.tracking.wandb import WandbObserver
from mathsft.tracking.warnings import warnings_shown
from mathsft.workers.machine import Machine
from mathsft.workers.placement import Placement, Purpose, place

Result = TypeVar("Result")

ALL_SETTINGS = ("",)
"""The prefix of all settings."""
SCORE_SETTINGS = ("model.", "data.", "prompt.", "evaluation.")
"""Prefixes of the settings that must be the same for all scores in one store."""


def layout_of(loaded: Loaded) -> StudyLayout:
    """Return the layout of the folder with the study's results."""
    return StudyLayout(results_folder(loaded.study_path).absolute())


def require_database(loaded: Loaded, layout: StudyLayout, same_settings: Sequence[str]) -> None:
    """Raise UserError with the command to run first if the study has no database yet."""
    if not layout.database.exists():
        raise UserError(no_winner(loaded, same_settings))


@contextmanager
def opened(loaded: Loaded, layout: StudyLayout) -> Iterator[StudyStore]:
    """Lock the study's folder and open its store."""
    with locked(layout):
        store = StudyStore.open(layout.database_url, loaded.study_name)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def opened_if_begun(loaded: Loaded, layout: StudyLayout) -> Iterator[StudyStore | None]:
    """Open the store without a lock, since a driver may be running there; None if the study has not begun."""
    if not layout.database.exists():
        yield None
        return
    store = StudyStore.open(layout.database_url, loaded.study_name)
    try:
        yield store
    finally:
        store.close()


@dataclass(frozen=True)
class Prepared:
    """The base model, the problems and the placement with which a study's workers start."""

    model_folder: Path
    pools: Pools
    placement: Placement


def prepared(opening: Opening, layout: StudyLayout, store: StudyStore, purpose: Purpose) -> Prepared:
    """Check model and data before a worker starts, record the problems, and choose the placement."""
    log_to(layout.log("driver"))
    loaded, heartbeat = opening.loaded, opening.heartbeat
    _check_name(layout.root)
    local = with_local_model(loaded.experiment, heartbeat)
    load_template(local.prompt.template)
    with heartbeat.during("reading the problems"):
        data = checked_data(local, opening.machine)
        check_data(store, data.pools, local.data.source)
    store.write(data.quality)
    store.record_problems(problem for name, pool in data.pools.items() if name != "train" for problem in pool)
    placement = placement_for(opening.machine, local, layout, purpose, loaded.study.final.ranks)
    opening.console.print(f"Study {loaded.study_name} in {layout.root}; {placement.description}")
    for line in quality_lines(data.quality):
        opening.console.print(line, markup=False)
    return Prepared(Path(local.model.path), data.pools, placement)


def checked_data(experiment: Experiment, machine: Machine) -> LoadedData:
    """Return the data; raise UserError if the base model, a local folder, cannot be trained or served on them."""
    data = load_data(experiment.data)
    problems = [problem for pool in data.pools.values() for problem in pool]
    check_model(Path(experiment.model.path), experiment, problems, on_cpu=not machine.cuda)
    return data


def _check_name(folder: Path) -> None:
    """Raise UserError if Python could not decode the folder's name, since databases and weights would not be found there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder}: the encoding of this locale ({sys.getfilesystemencoding()}) lacks characters of this name; set "
            "LC_ALL=C.UTF-8 and unset PYTHONUTF8, or work in another folder"
        ) from None


def placement_for(
    machine: Machine, experiment: Experiment, layout: StudyLayout, purpose: Purpose, ranks: int | None = None
) -> Placement:
    """Return the placement for the memory that is free now; the experiment's model is a local folder."""
    is_short = is_memory_short(experiment, Path(experiment.model.path), machine.free_memory_bytes)
    return place(machine, experiment, layout, purpose, ranks, memory_is_short=is_short)


@contextmanager
def observed(opening: Opening, layout: StudyLayout, store: StudyStore, ready: Prepared) -> Iterator[None]:
    """Add the store's observers: they record provenances and worker times, and show progress on the terminal and in W&B."""
    loaded, heartbeat = opening.loaded, opening.heartbeat
    with ExitStack() as stack:
        store.observers.append(ProvenanceRecorder(store, ready.model_folder, ready.pools, ready.placement.description))
        store.observers.append(Timekeeper(store, ready.placement.num_training))
        if loaded.study.wandb.mode != "disabled":
            wandb = WandbObserver(store, layout, loaded.study.wandb)
            stack.callback(_close, wandb, heartbeat)
            store.observers.append(wandb)
        stack.enter_context(warnings_shown(heartbeat))
        stack.enter_context(heartbeat.during("preparing the next step"))
        live = stack.enter_context(LiveProgress(heartbeat, store, loaded.study.num_trials))
        store.observers.append(live)
        yield


def _close(wandb: WandbObserver, heartbeat: Heartbeat) -> None:
    with heartbeat.during("closing W&B"):
        wandb.close()


def with_local_model(experiment: Experiment, heartbeat: Heartbeat) -> Experiment:
    """Return the experiment with its model resolved to a local folder."""
    with heartbeat.during(resolving(experiment.model.path)):
        folder = str(resolve_model(experiment.model.path))
    return experiment.model_copy(update={"model": experiment.model.model_copy(update={"path": folder})})


def log_to(path: Path) -> None:
    """Send this process's log to a file, so that it does not disturb the terminal."""
    path.parent.mkdir(exist_ok=True)
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def run_to_end(work: Coroutine[None, None, Result]) -> Result:
    """Run a coroutine; Ctrl-C and SIGTERM cancel it cleanly. Of a group of errors raise the UserError, else the first."""

    async def until_terminated() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with cancelling(task):
            return await work

    try:
        return asyncio.run(until_terminated())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        errors = _leaves(group)
        raise next((error for error in errors if isinstance(error, UserError)), errors[0]) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def no_winner(loaded: Loaded, same_settings: Sequence[str]) -> str:
    """Return the error text with the command to run before a final run."""
    return f"study {loaded.study_name} has no winner yet; run first: {command('study', *same_settings)}"
