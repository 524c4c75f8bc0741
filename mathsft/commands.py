"""What each command does, from settings to the last line: opens the study, starts its workers, says what came out."""

import argparse
import asyncio
import logging
import shlex
import signal
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mathsft.config.describe import resolved_rows, schema_rows
from mathsft.config.load import Loaded, identity, load_settings
from mathsft.config.schema import Experiment, Scalar
from mathsft.data.examples import load_template
from mathsft.data.models import resolve_model
from mathsft.data.pools import load_pools
from mathsft.errors import FAILED, OK, UserError
from mathsft.invocation import python, tool
from mathsft.reporting.report import conclusion, write_report
from mathsft.reporting.terminal import progression_table, study_table
from mathsft.runs.crew import Crew
from mathsft.runs.final import final_plan, final_run, run_final
from mathsft.runs.forecast import forecast
from mathsft.store.book import Book
from mathsft.store.folder import StudyFolder
from mathsft.study.search import Search
from mathsft.study.study import is_over, promote, run_study, trial_plan
from mathsft.tracking.live import LiveProgress
from mathsft.tracking.wandb import WandbObserver
from mathsft.workers.placement import Devices, Placement, Purpose, detect_devices, place

Result = TypeVar("Result")

WIDTH = 110
QUICKSTART, REAL = "quickstart", "qwen2.5-math-1.5b"
EVERYTHING = ("",)
SCORED_BY = ("model.", "data.", "prompt.", "evaluation.")
"""The settings that all scores in one book share."""


def study(arguments: argparse.Namespace) -> int:
    """Run a study to its promotion, or say what it would cost."""
    console, devices = _console(), detect_devices()
    loaded = _load(arguments, devices, console)
    for name in loaded.study.search.keys() & loaded.overrides.keys():
        raise UserError(f"--set {name}: the study searches it; drop the flag, or change search.{name} in the study file")
    if arguments.dry_run:
        return _dry_run(loaded, devices, console)
    deadline = time.monotonic() + arguments.hours * 3600 if arguments.hours else None
    config, folder = loaded.study, _folder(loaded)
    with _opened(loaded, folder) as book:
        book.check(identity(loaded), EVERYTHING if book.runs("trial-") else SCORED_BY)
        experiment, placement = _placed(loaded, folder, devices, "study", console)
        plan = trial_plan(config.trial, placement.max_unscored)
        search = Search(config, plan, book, folder, len(placement.trainers), deadline)
        book.record_settings(identity(loaded))
        with _observed(loaded, folder, book, console):
            if not is_over(search, book):
                with Crew.hired(placement, experiment, folder.path) as crew:
                    _run(run_study(config, search, crew, book))
            promotion = promote(book, folder.path)
        report = write_report(book, folder.path)
        console.print(study_table(book))
    if promotion is None:
        console.print(
            "No trial was trained to its end, so there is no winner: widen `search` in the study file or raise --trials."
        )
        return FAILED
    console.print(f"Promoted: {promotion.run}, {promotion.reason}.", f"Report: {report}", sep="\n")
    _print_next(folder, _same_settings(arguments, loaded, devices), console)
    return OK


def final(arguments: argparse.Namespace) -> int:
    """Train the full run and print how it went."""
    console, devices = _console(), detect_devices()
    loaded = _load(arguments, devices, console)
    folder, same_settings = _folder(loaded), _same_settings(arguments, loaded, devices)
    if arguments.from_best:
        _require_database(loaded, folder, same_settings)
    with _opened(loaded, folder) as book:
        promotion = book.promotion() if arguments.from_best else None
        if arguments.from_best and promotion is None:
            raise UserError(_no_winner(loaded, same_settings))
        book.check(identity(loaded), SCORED_BY)
        experiment, placement = _placed(loaded, folder, devices, "final", console)
        if not book.runs():
            book.record_settings(identity(loaded))
        overrides: dict[str, Scalar] = {**(promotion.overrides if promotion else {}), **loaded.overrides}
        run = final_run(overrides, final_plan(loaded.study.final, placement.max_unscored), loaded.study.seed)
        with _observed(loaded, folder, book, console), Crew.hired(placement, experiment, folder.path) as crew:
            run = _run(run_final(run, promotion, crew, book))
        report = write_report(book, folder.path)
        console.print(progression_table(book, run))
        concluded, checkpoints = conclusion(book), book.checkpoints(run.name)
    if run.state != "finished":
        console.print(f"{run.name} {run.state}: {run.reason}\nIts workers' logs: {folder.path / 'logs'}")
        return FAILED
    weights = folder.path / checkpoints[-1].path
    console.print(concluded)
    console.print(f"Report: {report}", f"Weights, a Hugging Face folder: {weights}", sep="\n")
    return OK


def config(arguments: argparse.Namespace) -> int:
    """Print the resolved settings, or every setting there is."""
    console = _console()
    if arguments.schema:
        table = Table("setting", "type", "default", "meaning")
        for row in schema_rows():
            table.add_row(row.name, row.type, Text(row.default), Text(row.meaning))
    else:
        loaded = _load(arguments, detect_devices(), console)
        table = Table("setting", "value", "from")
        for resolved in resolved_rows(loaded):
            table.add_row(resolved.name, Text(resolved.value), resolved.source)
    console.print(table)
    return OK


def report(arguments: argparse.Namespace) -> int:
    """Write a study's report anew from its database."""
    console, devices = _console(), detect_devices()
    loaded = _load(arguments, devices, console)
    folder = _folder(loaded)
    _require_database(loaded, folder, _same_settings(arguments, loaded, devices))
    with _opened(loaded, folder) as book:
        console.print(f"Report: {write_report(book, folder.path)}")
    return OK


# ---- the parts that commands share


def _console() -> Console:
    """Return the terminal, or lines wide enough for the tables where the output goes elsewhere."""
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(soft_wrap=True, highlight=False, width=WIDTH)


def _load(arguments: argparse.Namespace, devices: Devices, console: Console) -> Loaded:
    """Load the settings; without --study take the one that fits the machine, saying so."""
    name = arguments.study or _default_study(devices)
    if arguments.study is None and devices.cuda:
        console.print(f"{len(devices.cuda)} CUDA devices: study {REAL} (the small one: --study {QUICKSTART})")
    elif arguments.study is None:
        console.print(f"No CUDA device: the embedded quickstart, a model of 0.9 M parameters (the real one: --study {REAL})")
    assignments = list(arguments.set)
    flags = {"trials": "num_trials", "learning_rate": "training.learning_rate", "batch_size": "training.batch_size"}
    for flag, setting in flags.items():
        if getattr(arguments, flag, None) is not None:
            assignments.append(f"{setting}={getattr(arguments, flag)}")
    return load_settings(name, arguments.experiment, assignments)


def _default_study(devices: Devices) -> str:
    return REAL if devices.cuda else QUICKSTART


def _same_settings(arguments: argparse.Namespace, loaded: Loaded, devices: Devices) -> str:
    """Return the options with which another command reads the same settings; nothing where they are the default ones."""
    name = loaded.study_name if loaded.study_path.parent == Path("studies") else str(loaded.study_path)
    options = [] if name == _default_study(devices) else ["--study", name]
    options += ["--experiment", arguments.experiment] if arguments.experiment else []
    for assignment in arguments.set:
        options += ["--set", assignment]
    return f" {shlex.join(options)}" if options else ""


def _folder(loaded: Loaded) -> StudyFolder:
    return StudyFolder((loaded.study_path.parent / loaded.study_name).absolute())


def _require_database(loaded: Loaded, folder: StudyFolder, same_settings: str) -> None:
    if not (folder.path / "study.db").exists():
        raise UserError(_no_winner(loaded, same_settings))


@contextmanager
def _opened(loaded: Loaded, folder: StudyFolder) -> Iterator[Book]:
    """Hold the study's folder and open its book."""
    with folder.locked():
        book = Book.open(folder.database_url, loaded.study_name)
        try:
            yield book
        finally:
            book.close()


def _placed(
    loaded: Loaded, folder: StudyFolder, devices: Devices, purpose: Purpose, console: Console
) -> tuple[Experiment, Placement]:
    """Check what can be checked before a worker starts; return the experiment with a local model, and who works where."""
    _log_to(folder.path / "logs" / "driver.log")
    experiment = _with_local_model(loaded.experiment)
    load_template(experiment.prompt.template)
    load_pools(experiment.data)
    placement = place(devices, experiment, folder.path, purpose)
    console.print(f"Study {loaded.study_name} in {folder.path}; {placement.description}")
    return experiment, placement


@contextmanager
def _observed(loaded: Loaded, folder: StudyFolder, book: Book, console: Console) -> Iterator[None]:
    """Show what the book hears, on the terminal and in W&B."""
    with ExitStack() as stack:
        if loaded.study.wandb.mode != "disabled":
            wandb = WandbObserver(book, folder.path, loaded.study.wandb, loaded.experiment)
            stack.callback(wandb.close)
            book.observers.append(wandb)
        live = stack.enter_context(LiveProgress(console, book, loaded.study.num_trials, loaded.experiment))
        book.observers.append(live)
        yield


def _with_local_model(experiment: Experiment) -> Experiment:
    folder = str(resolve_model(experiment.model.path))
    return experiment.model_copy(update={"model": experiment.model.model_copy(update={"path": folder})})


def _log_to(path: Path) -> None:
    """Send this process's log to a file: the terminal is for what its user wants to know."""
    path.parent.mkdir(exist_ok=True)
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def _run(work: Coroutine[None, None, Result]) -> Result:
    """Run to the end; Ctrl-C and SIGTERM cancel cleanly, and of a group of errors the one that a user can mend comes out."""

    async def until_terminated() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
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


def _dry_run(loaded: Loaded, devices: Devices, console: Console) -> int:
    """Print what would run, and its predicted cost."""
    folder = _folder(loaded)
    experiment = _with_local_model(loaded.experiment)
    placement = place(devices, experiment, folder.path, "study")
    book = Book.open(folder.database_url, loaded.study_name) if (folder.path / "study.db").exists() else None
    hardware = placement.evaluator.settings.hardware
    model_folder, pools = Path(experiment.model.path), load_pools(experiment.data)
    predicted = forecast(loaded.study, experiment, model_folder, hardware, pools, book, len(placement.trainers))
    trial = loaded.study.trial
    points = ", ".join(f"{point:.0%}" for point in trial.eval_points)
    table = Table(show_header=False, box=None, title=f"Study {loaded.study_name}; nothing was started", title_justify="left")
    for name, value in (
        ("model", f"{experiment.model.path} ({predicted.num_parameters / 1e6:,.1f} M parameters)"),
        ("trials", f"{loaded.study.num_trials}, each {trial.num_examples:,} examples, scored at {points} of them"),
        ("searched", ", ".join(loaded.study.search)),
        ("devices", placement.description),
        ("time", f"about {_duration(predicted.seconds)} (from {predicted.basis})"),
        ("disk", f"up to {_size(predicted.disk_bytes)} of weights and training states in {folder.path}"),
        (
            "memory",
            f"trainer {_size(predicted.trainer_memory_bytes)} for weights and optimizer, plus activations; "
            f"evaluator {_size(predicted.evaluator_memory_bytes)} for weights, plus the KV cache",
        ),
    ):
        table.add_row(name, value)
    console.print(table)
    return OK


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.1f} GB"


def _no_winner(loaded: Loaded, same_settings: str) -> str:
    return f"study {loaded.study_name} has no winner yet; run first: {python()} run_study.py{same_settings}"


def _print_next(folder: StudyFolder, same_settings: str, console: Console) -> None:
    console.print(
        "Next:",
        f"  {python()} run_final.py --from-best{same_settings}",
        f"  {tool('optuna-dashboard')} {folder.database_url} --artifact-dir {folder.artifacts}",
        sep="\n",
    )
