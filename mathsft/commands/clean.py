"""mathsft clean: shows the disk use of a study, and deletes files that are no longer needed."""

import argparse

from rich import box
from rich.console import Console
from rich.prompt import Confirm
from rich.table import Table

from mathsft.accounting.disk import DiskUse, delete, holdings
from mathsft.commands.opening import open_console
from mathsft.commands.show import opened_to_read, study_folder
from mathsft.errors import OK
from mathsft.layout import StudyLayout
from mathsft.reporting import markdown
from mathsft.store.lock import locked


def run(arguments: argparse.Namespace) -> int:
    """Show the study's disk use; delete the files that are not needed if the user agrees."""
    console, layout = open_console(), StudyLayout(study_folder(arguments.study).absolute())
    with opened_to_read(arguments.study) as store, locked(layout):
        held = holdings(store, layout)
        console.print(_table(store.study, held))
        freeable = [holding for holding in held if holding.free]
        size = markdown.size(sum(holding.num_bytes for holding in freeable))
        if not freeable:
            console.print("Nothing to free: all files are results or may still be needed.")
        elif arguments.yes or _agreed(console, size):
            for holding in freeable:
                delete(holding)
            console.print(f"Freed {size}. The database still has all scores, responses and settings.")
        else:
            console.print(f"Nothing was deleted. To free {size}, add --yes.")
    return OK


def _agreed(console: Console, size: str) -> bool:
    try:
        return console.is_terminal and Confirm.ask(f"Free {size}?", console=console, default=False)
    except EOFError:  # standard input is closed
        return False


def _table(study: str, held: list[DiskUse]) -> Table:
    table = Table(title=f"Study {study} on disk", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("size", justify="right")
    table.add_column("can be freed")
    for holding in held:
        table.add_row(holding.kind, markdown.size(holding.num_bytes), f"yes: {holding.free}" if holding.free else "no")
    table.add_row("all", markdown.size(sum(holding.num_bytes for holding in held)), "")
    return table
