"""run_study.py: from settings to a promotion, or to what the study would cost."""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mathsft.commands.common import (
    EVERYTHING,
    SCORED_BY,
    folder_of,
    load,
    observed,
    open_console,
    opened,
    opened_if_begun,
    placed,
    placement_for,
    run_to_end,
    settings_options,
    with_local_model,
)
from mathsft.commands.precision import warn_if_emulated, with_precision
from mathsft.commands.show import opened_to_read
from mathsft.config.load import PRECISION, Loaded, identity
from mathsft.config.schema import Scalar, StudyConfig
from mathsft.data.pools import load_data, load_pools
from mathsft.errors import FAILED, OK, UserError
from mathsft.invocation import python, tool
from mathsft.reporting import text
from mathsft.reporting.horizon import horizon_words
from mathsft.reporting.quality import quality_lines
from mathsft.reporting.report import write_report
from mathsft.reporting.terminal import finalists_table, ledger_table, study_table
from mathsft.runs.crew import Crew
from mathsft.runs.forecast import FinalDisk, forecast
from mathsft.runs.ledger import cost_ledger
from mathsft.store.folder import StudyFolder
from mathsft.study.decide import Rule
from mathsft.study.given import best_settings, given_settings
from mathsft.study.search import Search
from mathsft.study.study import is_over, promote, run_study, trial_plan
from mathsft.workers.machine import Machine, detect_machine


def run(arguments: argparse.Namespace) -> int:
    """Run a study to its promotion, or say what it would cost."""
    console, machine = open_console(), detect_machine()
    loaded = load(arguments, machine, console)
    for name in loaded.study.search.keys() & loaded.overrides.keys():
        raise UserError(f"--set {name}: the study searches it; drop the flag, or change search.{name} in the study file")
    if arguments.dry_run:
        return _dry_run(loaded, machine, console)
    deadline = time.monotonic() + arguments.hours * 3600 if arguments.hours else None
    config, folder = loaded.study, folder_of(loaded)
    with opened(loaded, folder) as book:
        loaded = with_precision(loaded, machine, book)
        book.check(identity(loaded), EVERYTHING if book.runs("trial-") else SCORED_BY)
        warn_if_emulated(loaded, machine, console)
        experiment, placement = placed(loaded, folder, book, machine, "study", console)
        plan = trial_plan(config.trial, placement.max_unscored)
        given = given_settings(config, loaded.experiment, _warm_settings(arguments.warm_from, config))
        rule = Rule(config.search, config.selection, len(load_pools(experiment.data)["confirm"]), config.seed)
        search = Search(config, plan, given, book, folder, len(placement.trainers), deadline)
        book.record_settings(identity(loaded))
        with observed(loaded, folder, book, placement, console):
            if not is_over(config, search, book, rule):
                with Crew.hired(placement, experiment, folder.path, config.limits) as crew:
                    run_to_end(run_study(config, rule, search, crew, book))
            promotion = promote(rule, book, folder.path)
        report = write_report(book, folder.path)
        console.print(study_table(book))
        ahead = horizon_words(book, config.final.num_examples)
    if promotion is None:
        console.print(
            "No trial was trained to its end, so there is no winner: widen `search` in the study file or raise --trials."
        )
        return FAILED
    console.print(ledger_table(cost_ledger(book)), finalists_table(promotion))
    console.print(
        f"Promoted: {promotion.run}: {promotion.reason}.",
        text.expectation(promotion),
        *([ahead] if ahead else []),
        f"Report: {report}",
        sep="\n",
    )
    _print_next(folder, settings_options(arguments, loaded, machine), console)
    return OK


def _warm_settings(study: str | None, config: StudyConfig) -> list[dict[str, Scalar]]:
    """Return the best settings of another study that this one can try."""
    if study is None:
        return []
    with opened_to_read(study) as other:
        found = best_settings(other, config.search)
    if not found:
        raise UserError(f"--warm-from {study}: none of its settings lies in the ranges that this study searches")
    return found


def _dry_run(loaded: Loaded, machine: Machine, console: Console) -> int:
    """Print what would run, and its predicted cost."""
    folder = folder_of(loaded)
    with opened_if_begun(loaded, folder) as book:
        loaded = with_precision(loaded, machine, book)
        warn_if_emulated(loaded, machine, console)
        experiment = with_local_model(loaded.experiment)
        placement = placement_for(machine, experiment, folder.path, "study")
        hardware = placement.evaluator.settings.hardware
        model_folder, data = Path(experiment.model.path), load_data(experiment.data)
        predicted = forecast(loaded.study, experiment, model_folder, hardware, data.pools, book, len(placement.trainers))
    trial = loaded.study.trial
    points = ", ".join(f"{point:.0%}" for point in trial.eval_points)
    table = Table(show_header=False, box=None, title=f"Study {loaded.study_name}; nothing was started", title_justify="left")
    for name, value in (
        ("model", f"{experiment.model.path} ({predicted.num_parameters / 1e6:,.1f} M parameters)"),
        ("trials", f"{loaded.study.num_trials}, each {trial.num_examples:,} examples, scored at {points} of them"),
        ("searched", ", ".join(loaded.study.search)),
        ("devices", placement.description),
        ("precision", f"{experiment.training.precision} (from {loaded.sources.get(PRECISION, 'default')})"),
        ("time", f"about {_duration(predicted.seconds)} (from {predicted.basis})"),
        ("disk", f"up to {_size(predicted.disk_bytes)} of weights and training states in {folder.path}"),
        ("final run", _final_disk(predicted.final_disk)),
        (
            "memory",
            f"trainer {_size(predicted.trainer_memory_bytes)} for weights and optimizer, plus activations; "
            f"evaluator {_size(predicted.evaluator_memory_bytes)} for weights, plus the KV cache",
        ),
    ):
        table.add_row(name, value)
    console.print(table)
    for line in quality_lines(data.quality):
        console.print(line, markup=False)
    return OK


def _final_disk(predicted: FinalDisk) -> str:
    return (
        f"up to {_size(predicted.most_bytes)} of disk while it goes on, {_size(predicted.kept_bytes)} when it is over "
        f"({predicted.num_kept} checkpoints stay)"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.1f} GB"


def _print_next(folder: StudyFolder, same_settings: str, console: Console) -> None:
    console.print(
        "Next:",
        f"  {python()} run_final.py --from-best{same_settings}",
        f"  {tool('optuna-dashboard')} {folder.database_url} --artifact-dir {folder.artifacts}",
        sep="\n",
    )
