"""python -m mathsft config: the resolved settings, or every setting there is."""

import argparse

from rich.table import Table
from rich.text import Text

from mathsft.commands.opening import load, open_console
from mathsft.config.describe import resolved_rows, schema_rows
from mathsft.errors import OK
from mathsft.workers.placement import detect_devices


def run(arguments: argparse.Namespace) -> int:
    """Print the resolved settings, or every setting there is."""
    console = open_console()
    if arguments.schema:
        table = Table("setting", "type", "default", "meaning")
        for row in schema_rows():
            table.add_row(row.name, row.type, Text(row.default), Text(row.meaning))
    else:
        loaded = load(arguments, detect_devices(), console)
        table = Table("setting", "value", "from")
        for resolved in resolved_rows(loaded):
            table.add_row(resolved.name, Text(resolved.value), resolved.source)
    console.print(table)
    return OK
