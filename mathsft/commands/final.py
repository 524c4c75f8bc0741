"""mathsft final: from settings to a full run and how it went."""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mathsft.accounting.forecast import final_disk, model_size
from mathsft.accounting.ledger import cost_ledger
from mathsft.commands.common import (
    SCORED_BY,
    layout_of,
    no_winner,
    observed,
    opened,
    prepared,
    require_database,
    run_to_end,
)
from mathsft.commands.opening import Opening, settings_options
from mathsft.commands.precision import warn_if_emulated, with_precision
from mathsft.config.load import Loaded, identity
from mathsft.config.schema import FinalSettings, Scalar
from mathsft.errors import FAILED, OK, UserError
from mathsft.layout import StudyLayout
from mathsft.records import Promotion, Run
from mathsft.reporting import markdown
from mathsft.reporting.best_checkpoint_sentence import best_words
from mathsft.reporting.card import write_card
from mathsft.reporting.horizon_section import horizon_of
from mathsft.reporting.study_report import conclusion, write_report
from mathsft.reporting.terminal import ledger_table, progression_table
from mathsft.runs.best_checkpoint import best_checkpoint
from mathsft.runs.context import StudyContext
from mathsft.runs.final_run import final_plan, final_run, run_final
from mathsft.runs.horizon_runs import LEARNING_RATE, recorded_horizon
from mathsft.runs.retention import best_step
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore


def run(arguments: argparse.Namespace, opening: Opening) -> int:
    """Train the full run and print how it went."""
    console, machine, loaded = opening.console, opening.machine, opening.loaded
    layout, same_settings = layout_of(loaded), settings_options(arguments, machine)
    if arguments.horizon == "adjust" and not arguments.from_best:
        raise UserError("--horizon adjust moves the learning rate that won the study: use it with --from-best")
    if arguments.from_best:
        require_database(loaded, layout, same_settings)
    with opened(loaded, layout) as store:
        promotion = store.promotion() if arguments.from_best else None
        if arguments.from_best and promotion is None:
            raise UserError(no_winner(loaded, same_settings))
        opening = replace(opening, loaded=with_precision(loaded, machine, store))
        loaded = opening.loaded
        store.check(identity(loaded), SCORED_BY)
        warn_if_emulated(loaded, machine, console)
        experiment, ready = loaded.experiment, prepared(opening, layout, store, "final")
        if not store.runs():
            store.record_settings(identity(loaded))
        promoted = promotion.overrides if promotion else {}
        adjusted = _adjusted(loaded, promotion, store, console) if arguments.horizon == "adjust" else {}
        overrides: dict[str, Scalar] = {**promoted, **adjusted, **loaded.overrides}
        plan = final_plan(loaded.study.final, ready.placement.max_unscored)
        run = final_run(experiment, overrides, plan, loaded.study.seed)
        if goes_on := _goes_on(store, run.name):
            console.print(goes_on)
        console.print(_disk(loaded.study.final, ready.model_folder, layout))
        with (
            observed(opening, layout, store, ready),
            StudyWorkers.started(ready.placement, loaded.study.limits) as workers,
        ):
            study = StudyContext(store, workers, layout, experiment)
            run = run_to_end(run_final(run, promotion, study, loaded.study.final.min_gain))
        with opening.heartbeat.during("writing the report"):
            report = write_report(store, layout)
            concluded, chosen = conclusion(store), best_checkpoint(store, run)
            exported = _exported(run, store, layout) if run.state == "finished" else None
        console.print(progression_table(store, run), ledger_table(cost_ledger(store)))
    if run.state != "finished":
        console.print(f"{run.name} {run.state}: {run.reason}\nIts workers' logs: {layout.logs}")
        return FAILED
    console.print(concluded)
    if chosen is not None:
        console.print(best_words(chosen))
    console.print(f"Report: {report}", f"Weights, a Hugging Face folder with a model card: {exported}", sep="\n")
    return OK


def _adjusted(loaded: Loaded, promotion: Promotion | None, store: StudyStore, console: Console) -> dict[str, Scalar]:
    """Return the learning rate for a run of this length as the study's horizon says, and say so."""
    horizon = horizon_of(store, loaded.study.final.num_examples)
    if horizon is None or promotion is None:
        raise UserError(
            "--horizon adjust: the study's runs at two lengths do not show how the best learning rate moves"
            if recorded_horizon(store)
            else "--horizon adjust: the study has no runs at two lengths; set horizon.num_examples in the study file, below "
            "trial.num_examples, and run the study again"
        )
    rate = horizon.learning_rate
    console.print(
        f"Learning rate {rate.middle:.3g} ({rate.low:.3g} – {rate.high:.3g}) for {horizon.num_examples:,} examples; "
        f"promoted was {promotion.overrides[LEARNING_RATE]:.3g}"
    )
    return {LEARNING_RATE: rate.middle}


def _goes_on(store: StudyStore, name: str) -> str:
    """Return how far the run came before; empty for one that begins, or that has ended."""
    known, steps = store.run(name), store.metrics(name)
    if known is None or known.state != "running":
        return ""
    published = [checkpoint.step for checkpoint in store.checkpoints(name)]
    scored = store.scores(name, known.plan.pool)
    return (
        f"{name} goes on: it was trained to step {steps[-1].step if steps else 0} of {known.num_steps}, its last "
        f"checkpoint is of step {max(published, default=0)}, and {len(scored)} of {len(known.plan.eval_points)} checkpoints "
        "are scored"
    )


def _disk(settings: FinalSettings, model_folder: Path, layout: StudyLayout) -> str:
    """Return what the run is predicted to take on disk, and how much there is."""
    predicted, num_free = final_disk(settings, *model_size(model_folder)), shutil.disk_usage(layout.root).free
    said = (
        f"Disk: up to {markdown.size(predicted.most_bytes)} while it goes on, {markdown.size(predicted.kept_bytes)} when "
        f"it is over ({predicted.num_kept} checkpoints stay); {markdown.size(num_free)} are free"
    )
    if num_free > predicted.most_bytes:
        return said
    return f"{said}, which may not be enough: free some, or set fewer final.eval_points"


def _exported(run: Run, store: StudyStore, layout: StudyLayout) -> Path:
    """Write the model cards of the best and the last checkpoint, which both are kept; return the best one's folder."""
    validated = store.scores(run.name, run.plan.pool)
    folders = {}
    for step in {best_step(validated), validated[-1].step}:
        checkpoint = store.checkpoint(run.name, step)
        if checkpoint is not None and (layout / checkpoint.path).is_dir():
            folders[step] = write_card(store, run, checkpoint, layout)
    return folders.get(best_step(validated), layout.run(run.name))
