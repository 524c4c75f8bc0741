"""mathsft clean: shows the disk use of a study, and deletes files that are no longer needed."""

import argparse
from contextlib import suppress

from rich import box
from rich.console import Console
from rich.prompt import Confirm
from rich.table import Column, Table

from mathsft import formats
from mathsft.accounting.disk import DiskUse, delete, disk_uses
from mathsft.commands.opening import open_console
from mathsft.commands.stores import named_layout, store_to_read
from mathsft.errors import OK
from mathsft.store.lock import locked


def run(arguments: argparse.Namespace) -> int:
    """Show the study's disk use; delete the files that are not needed if the user agrees."""
    console, layout = open_console(), named_layout(arguments.study)
    with store_to_read(arguments.study, arguments.storage) as store, locked(layout):
        uses = disk_uses(store, layout)
        console.print(_table(store.study, uses))
        freeable = [use for use in uses if use.free]
        size = formats.size(sum(use.num_bytes for use in freeable))
        if not freeable:
            console.print("Nothing to free: all files are results or may still be needed.")
        elif arguments.yes or _agreed(console, size):
            for use in freeable:
                delete(use)
            console.print(f"Freed {size}. The database still has all scores, responses and settings.")
        else:
            console.print(f"Nothing was deleted. To free {size}, add --yes.")
    return OK


def _agreed(console: Console, size: str) -> bool:
    with suppress(EOFError):  # standard input is closed
        return console.is_terminal and Confirm.ask(f"Free {size}?", console=console, default=False)
    return False


def _table(study: str, uses: list[DiskUse]) -> Table:
    size = Column("size", justify="right")
    table = Table("", size, "can be freed", title=f"Study {study} on disk", title_justify="left", box=box.SIMPLE_HEAD)
    for use in uses:
        table.add_row(use.kind, formats.size(use.num_bytes), f"yes: {use.free}" if use.free else "no")
    table.add_row("all", formats.size(sum(use.num_bytes for use in uses)), "")
    return table
