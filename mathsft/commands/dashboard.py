"""mathsft dashboard: serves optuna-dashboard for one, several or all studies on loopback, until Ctrl-C."""

import argparse
import webbrowser

from mathsft.commands.opening import open_console, storage_options
from mathsft.commands.stores import all_studies, named_layout, store_to_read
from mathsft.config.files import STUDIES
from mathsft.errors import OK, UserError
from mathsft.interrupts import raising
from mathsft.invocation import command
from mathsft.study.dashboard_server import Shown, dashboard_server


def run(arguments: argparse.Namespace) -> int:
    """Serve the dashboard until Ctrl-C."""
    console = open_console()
    storage = arguments.storage
    shown = [_named(study, storage) for study in arguments.studies] if arguments.studies else _all(storage)
    with dashboard_server(shown, arguments.port) as server:
        names = ", ".join(study.layout.root.name for study in shown)
        address = server.address_of(names) if len(shown) == 1 else server.address
        console.print(f"optuna-dashboard of {names}, for reading: {address}", "Ctrl-C stops it.", sep="\n", markup=False)
        if arguments.open:
            webbrowser.open(address)
        try:
            with raising():
                server.serve_forever()
        except KeyboardInterrupt:
            console.print("Stopped")
    return OK


def _all(storage: str | None) -> list[Shown]:
    """Return all studies with trials; raise UserError if there is none."""
    shown = [study for layout in all_studies(storage) if (study := _shown(str(layout.root), storage))]
    if not shown:
        raise UserError(f"there is no study with trials in {STUDIES.absolute()} yet; start with: {command('study')}")
    return shown


def _named(study: str, storage: str | None) -> Shown:
    """Return a study; raise UserError if it has no trials."""
    if (shown := _shown(study, storage)) is None:
        show = command("show", study, *storage_options(storage))
        raise UserError(f"{study}: has no trials, which the dashboard would show; see: {show}")
    return shown


def _shown(study: str, storage: str | None) -> Shown | None:
    """Return a study with its database; None if it has no trials, as after a final run alone."""
    with store_to_read(study, storage) as store:
        return Shown(named_layout(study), store.database) if store.asks() else None
