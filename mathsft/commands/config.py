"""mathsft config: prints the resolved settings, or the schema of all settings."""

import argparse

from rich.table import Column, Table
from rich.text import Text

from mathsft.commands.opening import layout_of, load, open_console
from mathsft.commands.precision import with_engine_precision, with_precision
from mathsft.commands.stores import store_if_begun
from mathsft.config.describe import resolved_rows, schema_rows
from mathsft.errors import OK
from mathsft.workers.machine import detect_machine


def run(arguments: argparse.Namespace) -> int:
    """Print the resolved settings, or the schema of all settings."""
    console = open_console()
    if arguments.schema:
        table = Table("setting", "type", "default", "meaning")
        for row in schema_rows():
            table.add_row(row.name, row.type, Text(row.default), Text(row.meaning))
    else:
        machine = detect_machine()
        loaded = load(arguments, machine, console)
        with store_if_begun(layout_of(loaded), loaded.study.storage) as store:
            loaded = with_engine_precision(with_precision(loaded, machine, store), machine)
        table = Table(*(Column(header, overflow="fold") for header in ("setting", "value", "from")))
        for resolved in resolved_rows(loaded):
            table.add_row(resolved.name, Text(resolved.value), resolved.source)
    console.print(table)
    return OK
