"""mathsft config: prints the resolved settings and the workers that they lead to, or the schema of all settings."""

import argparse
from collections.abc import Mapping
from contextlib import suppress

from rich.table import Column, Table
from rich.text import Text

from mathsft.commands.hardware import known_size, placements
from mathsft.commands.opening import layout_of, load, open_console
from mathsft.commands.precision import with_engine_precision, with_precision
from mathsft.commands.stores import store_if_begun
from mathsft.config.describe import resolved_rows, schema_rows
from mathsft.errors import OK, UserError
from mathsft.workers.machine import detect_machine
from mathsft.workers.placement import Placement, Purpose

RUNS: Mapping[Purpose, str] = {"study": "study", "final": "final run"}


def run(arguments: argparse.Namespace) -> int:
    """Print the resolved settings and the workers, or the schema of all settings."""
    console = open_console()
    placed: dict[Purpose, Placement | UserError] = {}
    if arguments.schema:
        table = Table("setting", "type", "default", "meaning")
        for row in schema_rows():
            table.add_row(row.name, row.type, Text(row.default), Text(row.meaning))
    else:
        machine = detect_machine()
        loaded = load(arguments, machine, console)
        with store_if_begun(layout_of(loaded), loaded.study.storage) as store:
            loaded = with_precision(loaded, machine, store)
            with suppress(UserError):  # no model is there, which the commands that need it say
                placed = placements(machine, loaded, known_size(loaded.experiment.model.path), store)
        loaded = with_engine_precision(loaded, machine)
        table = Table(*(Column(header, overflow="fold") for header in ("setting", "value", "from")))
        for resolved in resolved_rows(loaded):
            table.add_row(resolved.name, Text(resolved.value), resolved.source)
    console.print(table)
    for purpose, placement in placed.items():
        text = f"no workers: {placement}" if isinstance(placement, UserError) else placement.description
        console.print(f"Workers on this machine, {RUNS[purpose]}: {text}", markup=False)
    return OK
