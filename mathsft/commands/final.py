"""mathsft final: trains the full run and prints its results."""

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from mathsft import formats
from mathsft.accounting.forecast import final_disk, model_size
from mathsft.accounting.ledger import cost_ledger
from mathsft.commands.common import no_winner_message, observers_attached, prepare, run_to_end
from mathsft.commands.dashboard_pages import refresh_study
from mathsft.commands.method_note import method_note, promoted_note
from mathsft.commands.opening import CommandContext, settings_options
from mathsft.commands.stores import locked_store, share_study, store_if_begun
from mathsft.config.load import Loaded, identity
from mathsft.config.schema import TrainingSettings
from mathsft.config.study_schema import FinalSettings
from mathsft.config.variants import METHOD
from mathsft.errors import FAILED, OK, UserError
from mathsft.layout import StudyLayout
from mathsft.records import Promotion, Run
from mathsft.reporting.answer import conclusion
from mathsft.reporting.best_checkpoint_sentence import best_words
from mathsft.reporting.card import write_card
from mathsft.reporting.cost_section import ledger_table
from mathsft.reporting.horizon_section import horizon_of
from mathsft.reporting.score_tables import progression_table
from mathsft.reporting.study_report import write_report
from mathsft.runs.best_checkpoint import best_checkpoint
from mathsft.runs.context import StudyContext
from mathsft.runs.final_run import final_plan, final_run, run_final
from mathsft.runs.horizon_runs import LEARNING_RATE, recorded_horizon
from mathsft.runs.retention import best_step
from mathsft.runs.worker_pool import StudyWorkers
from mathsft.store.study_store import StudyStore


def run(arguments: argparse.Namespace, context: CommandContext) -> int:
    """Train the full run and print its results."""
    console, layout = context.console, context.layout
    if arguments.horizon == "adjust" and not arguments.from_best:
        raise UserError("--horizon adjust changes the learning rate of the study's winner: use it with --from-best")
    no_winner = UserError(no_winner_message(context.loaded, settings_options(arguments, context.machine)))
    storage = context.loaded.study.storage
    with store_if_begun(layout, storage) as begun:
        if arguments.from_best and begun is None:
            raise no_winner
    share_study(context.backend, layout, storage)
    with locked_store(layout, storage) as store:
        promotion = store.promotion() if arguments.from_best else None
        if arguments.from_best and promotion is None:
            raise no_winner
        ready = prepare(context, store, "final")
        loaded, settings = ready.loaded, ready.loaded.study.final
        if not store.runs():
            store.record_settings(identity(loaded))
        overrides = dict(promotion.overrides) if promotion else {}
        if promotion and arguments.horizon == "adjust":
            overrides[LEARNING_RATE] = _adjusted_rate(settings, promotion, store, console)
        overrides |= loaded.overrides
        plan = final_plan(settings, ready.placement.max_unscored)
        run = final_run(loaded.experiment, overrides, plan, loaded.study.seed)
        if note := _rate_note(loaded, run, promotion, store):
            console.print(note, markup=False)
        if resumed := _resumed(store, run.name):
            console.print(resumed)
        console.print(_disk(settings, ready.model_folder, run.experiment.training, layout))
        with (
            observers_attached(context, store, ready),
            StudyWorkers.started(ready.placement, loaded.study.limits, context.backend) as workers,
        ):
            study = StudyContext(store, workers, layout, loaded.experiment)
            run = run_to_end(run_final(run, promotion, study, settings.min_gain))
        with context.heartbeat.during("writing the report"):
            report = write_report(store, layout)
            refresh_study(store)
            concluded, chosen = conclusion(store), best_checkpoint(store, run)
            exported = _exported(run, store, layout) if run.state == "finished" else None
        console.print(progression_table(store, run).terminal(), ledger_table(cost_ledger(store)).terminal())
    if run.state != "finished":
        console.print(f"{run.name} {run.state}: {run.reason}\nLogs of the workers: {layout.logs}")
        return FAILED
    console.print(concluded)
    if chosen is not None:
        console.print(best_words(chosen))
    console.print(f"Report: {report}", f"Weights (a Hugging Face folder with a model card): {exported}", sep="\n")
    return OK


def _adjusted_rate(settings: FinalSettings, promotion: Promotion, store: StudyStore, console: Console) -> float:
    """Return the learning rate that the study's horizon predicts for a run of this length, and print it."""
    horizon = horizon_of(store, settings.num_examples)
    if horizon is None:
        raise UserError(
            "--horizon adjust: the study's runs at two lengths do not show whether the best learning rate depends on the "
            "length; drop the flag"
            if recorded_horizon(store)
            else "--horizon adjust: the study has no runs at two lengths; set horizon.num_examples in the study file, below "
            "trial.num_examples, and run the study again"
        )
    rate = horizon.learning_rate
    console.print(
        f"Learning rate {rate.middle:.3g} ({rate.low:.3g} – {rate.high:.3g}) for {horizon.num_examples:,} examples; "
        f"the promoted trial had {promotion.overrides[LEARNING_RATE]:.3g}"
    )
    return rate.middle


def _rate_note(loaded: Loaded, run: Run, promotion: Promotion | None, store: StudyStore) -> str | None:
    """Return the line for a learning rate that was chosen for the other training.method, if it was."""
    if promotion is None:
        return method_note(loaded, is_search=False)
    chosen_with = {METHOD: "full", **(store.settings() or {}), **promotion.overrides}[METHOD]
    return promoted_note(loaded, run.experiment.training, str(chosen_with))


def _resumed(store: StudyStore, name: str) -> str:
    """Return a line with the progress of a run that is resumed; empty for a new or an ended run."""
    recorded, steps = store.run(name), store.metrics(name)
    if recorded is None or recorded.state != "running":
        return ""
    published = [checkpoint.step for checkpoint in store.checkpoints(name)]
    scored = store.scores(name, recorded.plan.pool)
    return (
        f"{name} is resumed: it was trained to step {steps[-1].step if steps else 0} of {recorded.num_steps}, its last "
        f"checkpoint has step {max(published, default=0)}, and {len(scored)} of {len(recorded.plan.eval_points)} "
        "checkpoints are scored"
    )


def _disk(settings: FinalSettings, model_folder: Path, training: TrainingSettings, layout: StudyLayout) -> str:
    """Return a line with the run's predicted disk use and the free disk space."""
    predicted = final_disk(settings, model_size(model_folder), training)
    num_free = shutil.disk_usage(layout.root).free
    advice = ", which may not be enough: free some disk space, or set fewer final.eval_points"
    line = f"The final run takes {predicted}; {formats.rough_size(num_free)} are free"
    return line if num_free > predicted.most_bytes else line + advice


def _exported(run: Run, store: StudyStore, layout: StudyLayout) -> Path:
    """Write model cards for the best and the last checkpoint, which are both kept; return the best checkpoint's folder."""
    validated = store.scores(run.name, run.plan.pool)
    folders = {}
    for step in {best_step(validated), validated[-1].step}:
        checkpoint = store.checkpoint(run.name, step)
        if checkpoint is not None and (layout / checkpoint.path).is_dir():
            folders[step] = write_card(store, run, checkpoint, layout)
    return folders.get(best_step(validated), layout.run(run.name))
