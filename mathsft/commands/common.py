"""Shared by the commands: checks and placement, observers, the asyncio loop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mathsft.accounting.forecast import is_memory_short, model_size
from mathsft.accounting.ledger import Timekeeper
from mathsft.commands.opening import CommandContext
from mathsft.commands.planned_workers import planned_workers
from mathsft.commands.precision import warn_if_emulated, with_precision
from mathsft.config.load import Loaded, identity
from mathsft.config.schema import Experiment
from mathsft.data.model_check import check_model
from mathsft.data.models import progress_text, resolve_model
from mathsft.data.pools import LoadedData, Pools, load_data
from mathsft.errors import UserError
from mathsft.interrupts import cancelling
from mathsft.invocation import command
from mathsft.layout import StudyLayout
from mathsft.prompts.request import request_template
from mathsft.reporting.quality_section import quality_lines
from mathsft.runs.provenance import ProvenanceRecorder, check_data
from mathsft.store.study_store import StudyStore
from mathsft.tracking.heartbeat import Heartbeat, warnings_shown
from mathsft.tracking.live import LiveProgress
from mathsft.tracking.wandb import WandbObserver
from mathsft.workers.cluster_placement import place_on_cluster
from mathsft.workers.machine import Machine
from mathsft.workers.placement import Placement, Purpose, place

Result = TypeVar("Result")

ALL_SETTINGS = ("",)
"""The prefix of all settings."""
SCORE_SETTINGS = ("task", "model.", "data.", "prompt.", "evaluation.")
"""Prefixes of the settings that must be the same for all scores in one store."""


@dataclass(frozen=True)
class Preparation:
    """The settings, the base model, the problems and the placement with which a study's workers start."""

    loaded: Loaded
    """Its precision is resolved."""
    model_folder: Path
    pools: Pools
    placement: Placement


def prepare(context: CommandContext, store: StudyStore, purpose: Purpose) -> Preparation:
    """Check settings, model and data before a worker starts, record the problems, and choose the placement."""
    machine, layout, heartbeat = context.machine, context.layout, context.heartbeat
    loaded = with_precision(context.loaded, machine, store)
    store.check(identity(loaded), ALL_SETTINGS if purpose == "study" and store.runs("trial") else SCORE_SETTINGS)
    warn_if_emulated(loaded, machine, context.console)
    log_to(layout.log("driver"))
    _check_name(layout.root)
    local = with_local_model(loaded.experiment, heartbeat)
    request_template(local.prompt)
    with heartbeat.during("reading the problems"):
        data = checked_data(local, machine)
        check_data(store, data.pools, local.data.source)
    store.write(data.quality)
    store.record_problems(problem for name, pool in data.pools.items() if name != "train" for problem in pool)
    size = model_size(Path(local.model.path))
    placement = planned_workers(machine, loaded.study, local, size, layout, purpose, store, context.nodes)
    records = f"; records in {store.url}" if store.database.is_server else ""
    context.console.print(f"Study {loaded.study_name} in {layout.root}{records}; {placement.description}")
    for line in quality_lines(data.quality):
        context.console.print(line, markup=False)
    return Preparation(loaded, Path(local.model.path), data.pools, placement)


def checked_data(experiment: Experiment, machine: Machine) -> LoadedData:
    """Return the data; raise UserError if the base model, a local folder, cannot be trained or served on them."""
    data = load_data(experiment.data, experiment.task)
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
    machine: Machine,
    experiment: Experiment,
    layout: StudyLayout,
    purpose: Purpose,
    ranks: int | None = None,
    nodes: Sequence[Machine] = (),
) -> Placement:
    """Return the placement for the memory that is free now; the experiment's model is a local folder."""
    model = model_size(Path(experiment.model.path))
    is_short = is_memory_short(experiment, model, machine.free_memory_bytes)
    placed = partial(place_on_cluster, nodes) if nodes else partial(place, machine)
    return placed(experiment, layout, purpose, ranks, model=model, memory_is_short=is_short)


@contextmanager
def observers_attached(context: CommandContext, store: StudyStore, ready: Preparation) -> Iterator[None]:
    """Add the store's observers: they record provenances and worker times, and show progress on the terminal and in W&B."""
    study, heartbeat = ready.loaded.study, context.heartbeat
    with ExitStack() as stack:
        store.observers.append(ProvenanceRecorder(store, ready.model_folder, ready.pools, ready.placement.description))
        store.observers.append(Timekeeper(store, ready.placement.num_training, len(ready.placement.evaluators)))
        if study.wandb.mode != "disabled":
            wandb = WandbObserver(store, context.layout, study.wandb)
            stack.callback(heartbeat.during("closing W&B")(wandb.close))
            store.observers.append(wandb)
        stack.enter_context(warnings_shown(heartbeat))
        stack.enter_context(heartbeat.during("preparing the next step"))
        store.observers.append(stack.enter_context(LiveProgress(heartbeat, store, study.num_trials)))
        yield


def with_local_model(experiment: Experiment, heartbeat: Heartbeat) -> Experiment:
    """Return the experiment with its model resolved to a local folder."""
    with heartbeat.during(progress_text(experiment.model.path)):
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
        error: BaseException = group.subgroup(UserError) or group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def no_winner_message(loaded: Loaded, same_settings: Sequence[str]) -> str:
    """Return the error text with the command to run before a final run."""
    return f"study {loaded.study_name} has no winner yet; run first: {command('study', *same_settings)}"
