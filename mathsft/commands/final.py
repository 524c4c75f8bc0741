"""run_final.py: from settings to a full run and how it went."""

import argparse

from mathsft.commands.common import (
    SCORED_BY,
    folder_of,
    load,
    no_winner,
    observed,
    open_console,
    opened,
    placed,
    require_database,
    run_to_end,
    settings_options,
)
from mathsft.config.load import identity
from mathsft.config.schema import Scalar
from mathsft.errors import FAILED, OK, UserError
from mathsft.reporting.report import conclusion, write_report
from mathsft.reporting.terminal import ledger_table, progression_table
from mathsft.runs.crew import Crew
from mathsft.runs.final import final_plan, final_run, run_final
from mathsft.runs.ledger import cost_ledger
from mathsft.workers.placement import detect_devices


def run(arguments: argparse.Namespace) -> int:
    """Train the full run and print how it went."""
    console, devices = open_console(), detect_devices()
    loaded = load(arguments, devices, console)
    folder, same_settings = folder_of(loaded), settings_options(arguments, loaded, devices)
    if arguments.from_best:
        require_database(loaded, folder, same_settings)
    with opened(loaded, folder) as book:
        promotion = book.promotion() if arguments.from_best else None
        if arguments.from_best and promotion is None:
            raise UserError(no_winner(loaded, same_settings))
        book.check(identity(loaded), SCORED_BY)
        experiment, placement = placed(loaded, folder, book, devices, "final", console)
        if not book.runs():
            book.record_settings(identity(loaded))
        overrides: dict[str, Scalar] = {**(promotion.overrides if promotion else {}), **loaded.overrides}
        run = final_run(overrides, final_plan(loaded.study.final, placement.max_unscored), loaded.study.seed)
        with (
            observed(loaded, folder, book, placement, console),
            Crew.hired(placement, experiment, folder.path, loaded.study.limits) as crew,
        ):
            run = run_to_end(run_final(run, promotion, crew, book, loaded.study.final.min_gain))
        report = write_report(book, folder.path)
        console.print(progression_table(book, run), ledger_table(cost_ledger(book)))
        concluded, checkpoints = conclusion(book), book.checkpoints(run.name)
    if run.state != "finished":
        console.print(f"{run.name} {run.state}: {run.reason}\nIts workers' logs: {folder.path / 'logs'}")
        return FAILED
    weights = folder.path / checkpoints[-1].path
    console.print(concluded)
    console.print(f"Report: {report}", f"Weights, a Hugging Face folder: {weights}", sep="\n")
    return OK
