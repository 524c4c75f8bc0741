"""mathsft dashboard: serves optuna-dashboard for one, several or all studies on loopback, until Ctrl-C."""

import argparse
import webbrowser

from mathsft.commands.opening import open_console
from mathsft.commands.stores import all_studies, named_layout, storage_of, store_to_read
from mathsft.config.files import STUDIES
from mathsft.errors import OK, UserError
from mathsft.interrupts import raising
from mathsft.invocation import command
from mathsft.store.database import Database
from mathsft.study.dashboard_server import Shown, dashboard_server


def run(arguments: argparse.Namespace) -> int:
    """Serve the dashboard until Ctrl-C."""
    console = open_console()
    shown = [_shown(study, arguments.storage) for study in arguments.studies or _all(arguments.storage)]
    with dashboard_server(shown, arguments.port) as server:
        names = ", ".join(study.layout.root.name for study in shown)
        address = f"{server.address}studies/{names}" if len(shown) == 1 else server.address
        console.print(f"optuna-dashboard of {names}, for reading: {address}", "Ctrl-C stops it.", sep="\n", markup=False)
        if arguments.open:
            webbrowser.open(address)
        try:
            with raising():
                server.serve_forever()
        except KeyboardInterrupt:
            console.print("Stopped")
    return OK


def _all(storage: str | None) -> list[str]:
    studies = [str(layout.root) for layout in all_studies(storage)]
    if not studies:
        raise UserError(f"there is no study with results in {STUDIES.absolute()} yet; start with: {command('study')}")
    return studies


def _shown(study: str, storage: str | None) -> Shown:
    """Return a study with its database; raise UserError if it has no trials."""
    with store_to_read(study, storage) as store:
        if not store.asks():
            raise UserError(f"{study}: has no trials, which the dashboard would show; see: {command('show', study)}")
        return Shown(named_layout(study), Database.of(named_layout(study), storage_of(study, storage)))
