"""mathsft report: writes a study's report again from its database."""

import argparse

from mathsft.commands.common import no_winner_message
from mathsft.commands.dashboard_pages import refresh_study
from mathsft.commands.opening import layout_of, load, open_console, settings_options
from mathsft.commands.stores import locked_store, store_if_begun
from mathsft.errors import OK, UserError
from mathsft.reporting.study_report import write_report
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.machine import detect_machine


def run(arguments: argparse.Namespace) -> int:
    """Write a study's report again from its database."""
    console, machine = open_console(), detect_machine()
    loaded = load(arguments, machine, console)
    layout, heartbeat = layout_of(loaded), Heartbeat(console)
    with store_if_begun(layout, loaded.study.storage) as begun:
        if begun is None:
            raise UserError(no_winner_message(loaded, settings_options(arguments, machine)))
    with locked_store(layout, loaded.study.storage) as store, heartbeat, heartbeat.during("writing the report"):
        report = write_report(store, layout)
        refresh_study(store)
        console.print(f"Report: {report}")
    return OK
