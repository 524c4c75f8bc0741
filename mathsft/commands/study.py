"""mathsft study: runs a study to its promotion, or predicts its costs (--dry-run)."""

import argparse
from dataclasses import replace
from functools import partial

from rich.table import Table

from mathsft import formats
from mathsft.accounting.forecast import StudyTime
from mathsft.accounting.ledger import cost_ledger
from mathsft.commands.common import observers_attached, prepare, run_to_end
from mathsft.commands.dashboard_pages import refresh_study, show_run
from mathsft.commands.method_note import method_note, warm_note
from mathsft.commands.opening import CommandContext, settings_options, storage_options
from mathsft.commands.precision import warn_if_emulated, with_precision
from mathsft.commands.predict import predicted
from mathsft.commands.stores import locked_store, share_study, store_if_begun, store_to_read
from mathsft.config.load import PRECISION, identity
from mathsft.config.schema import Scalar
from mathsft.errors import FAILED, OK, UserError
from mathsft.invocation import command
from mathsft.reporting import markdown
from mathsft.reporting.cost_section import ledger_table
from mathsft.reporting.horizon_section import horizon_words
from mathsft.reporting.quality_section import quality_lines
from mathsft.reporting.study_report import write_report
from mathsft.reporting.trial_tables import best_trials_table, finalists_table
from mathsft.runs.contest import Rule
from mathsft.runs.context import StudyContext
from mathsft.runs.weak_signal import weak_signal
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.study.components import rehearse
from mathsft.study.initial_trials import best_settings, initial_settings
from mathsft.study.search import Search, open_optuna_study
from mathsft.study.stages import is_over, promote, run_study, trial_plan


def run(arguments: argparse.Namespace, context: CommandContext) -> int:
    """Run a study to its promotion, or predict its costs."""
    console, loaded, layout = context.console, context.loaded, context.layout
    for name in loaded.study.search.keys() & loaded.overrides.keys():
        raise UserError(f"--set {name}: the study searches it; drop the flag, or change search.{name} in the study file")
    rehearse(loaded.study)
    if note := method_note(loaded, is_search=True):
        console.print(note, markup=False)
    if arguments.dry_run:
        return _dry_run(context)
    config = loaded.study
    share_study(context.backend, layout, config.storage)
    with locked_store(layout, config.storage) as store:
        ready = prepare(context, store, "study")
        experiment, placement = ready.loaded.experiment, ready.placement
        plan = trial_plan(config.trial, placement.max_unscored)
        given = initial_settings(config, experiment, _warm_settings(arguments.warm_from, context))
        rule = Rule(config.search, config.selection, len(ready.pools["confirm"]), config.seed)
        show = partial(show_run, store=store, layout=layout)
        search = Search(
            config, experiment, plan, given, store, open_optuna_study(config, store), show, len(placement.trainers)
        )
        store.record_settings(identity(ready.loaded))
        with observers_attached(context, store, ready):
            if not is_over(config, experiment, search, store, rule):
                with StudyWorkers.started(placement, config.limits, context.backend) as workers:
                    run_to_end(run_study(config, rule, search, StudyContext(store, workers, layout, experiment)))
            promotion = promote(rule, store, layout)
        with context.heartbeat.during("writing the report"):
            report = write_report(store, layout)
            refresh_study(store)
            notes = [f"{weakness}."] if (weakness := weak_signal(store)) else []
            notes += [advice] if (advice := horizon_words(store, config.final.num_examples)) else []
        console.print(best_trials_table(store).terminal())
        ledger = ledger_table(cost_ledger(store)).terminal()
    if promotion is None:
        console.print(
            "No trial was trained to its end, so there is no winner: widen `search` in the study file or raise --trials."
        )
        return FAILED
    console.print(ledger, finalists_table(promotion).terminal())
    console.print(
        f"Promoted: {promotion.run}: {promotion.reason}.",
        markdown.expectation(promotion),
        *notes,
        f"Report: {report}",
        "Next:",
        f"  {command('final', '--from-best', *settings_options(arguments, context.machine))}",
        f"  {command('dashboard', arguments.study or loaded.study_name, *storage_options(config.storage))}",
        sep="\n",
    )
    return OK


def _warm_settings(study: str | None, context: CommandContext) -> list[dict[str, Scalar]]:
    """Return another study's best settings that lie in this study's ranges."""
    if study is None:
        return []
    config = context.loaded.study
    with store_to_read(study, config.storage) as other:
        settings = best_settings(other, config.search)
        note = warm_note(context.loaded, other.settings() or {}, study)
    if settings and note:
        context.console.print(note, markup=False)
    if not settings:
        raise UserError(f"--warm-from {study}: none of its settings lies in the ranges that this study searches")
    return settings


def _dry_run(context: CommandContext) -> int:
    """Print what would run, and its predicted costs."""
    console, machine = context.console, context.machine
    with store_if_begun(context.layout, context.loaded.study.storage) as store:
        loaded = with_precision(context.loaded, machine, store)
        warn_if_emulated(loaded, machine, console)
        prediction = predicted(replace(context, loaded=loaded), store)
    experiment, trial, taken = prediction.experiment, loaded.study.trial, prediction.footprint
    points = ", ".join(f"{point:.0%}" for point in trial.eval_points)
    table = Table(show_header=False, box=None, title=f"Study {loaded.study_name}; nothing was started", title_justify="left")
    for name, value in (
        ("model", f"{experiment.model.path} ({taken.num_parameters / 1e6:,.1f} M parameters)"),
        ("trials", f"{loaded.study.num_trials}, each {trial.num_examples:,} examples, scored at {points} of them"),
        *([("trained", f"at most {taken.num_trained:,} parameters")] if taken.num_trained < taken.num_parameters else []),
        ("searched", ", ".join(loaded.study.search)),
        ("devices", prediction.placement.description),
        ("precision", f"{experiment.training.precision} (from {loaded.sources.get(PRECISION, 'default')})"),
        ("time", f"about {_duration(prediction.time.total)}: {_parts(prediction.time)}"),
        ("", f"based on {prediction.basis}"),
        ("disk", f"up to {formats.rough_size(taken.disk_bytes)} of weights and training states in {context.layout.root}"),
        ("final run", f"about {_duration(prediction.final_seconds)}; {taken.final_disk}"),
        (
            "memory",
            f"trainer {formats.rough_size(taken.trainer_memory_bytes)} for weights and optimizer, plus activations; "
            f"evaluator {formats.rough_size(taken.evaluator_memory_bytes)} for weights, plus the KV cache",
        ),
    ):
        table.add_row(name, value)
    console.print(table)
    for line in quality_lines(prediction.quality):
        console.print(line, markup=False)
    return OK


def _parts(time: StudyTime) -> str:
    parts = {"to start": time.start, "for trials": time.trials, "to confirm": time.confirm, "for the horizon": time.horizon}
    left = ", ".join(f"{formats.seconds(seconds)} {name}" for name, seconds in parts.items() if seconds)
    return left or "nothing is left"


def _duration(seconds: float) -> str:
    return formats.rough_seconds(seconds, minutes="minutes", hours="hours")
