"""mathsft report: writes a study's report again from its database."""

import argparse

from mathsft.commands.common import layout_of, opened, require_database
from mathsft.commands.opening import load, open_console, settings_options
from mathsft.errors import OK
from mathsft.reporting.study_report import write_report
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.machine import detect_machine


def run(arguments: argparse.Namespace) -> int:
    """Write a study's report again from its database."""
    console, machine = open_console(), detect_machine()
    loaded = load(arguments, machine, console)
    layout = layout_of(loaded)
    require_database(loaded, layout, settings_options(arguments, machine))
    heartbeat = Heartbeat(console)
    with opened(loaded, layout) as store, heartbeat, heartbeat.during("writing the report"):
        console.print(f"Report: {write_report(store, layout)}")
    return OK
