"""mathsft compare: says whether one checkpoint is better than another, on the problems that both were scored on."""

import argparse
import json

from pydantic_core import to_jsonable_python

from mathsft.commands.opening import open_console
from mathsft.commands.show import find_run
from mathsft.commands.stores import store_to_read
from mathsft.errors import OK, UserError
from mathsft.reporting.verdict_tables import sides_table, verdict_lines
from mathsft.runs.verdict import ScoredCheckpoint, judge, scored_checkpoint


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict."""
    console = open_console()
    first, second = (_checkpoint(given, arguments.storage) for given in (arguments.first, arguments.second))
    verdict = judge(first, second, arguments.pool)
    if arguments.json:
        console.out(json.dumps(to_jsonable_python(verdict), indent=2), highlight=False)
        return OK
    console.print(sides_table(verdict).terminal())
    for line in verdict_lines(verdict):
        console.print(line, markup=False)
    return OK


def _checkpoint(given: str, storage: str | None) -> ScoredCheckpoint:
    """Return the checkpoint that STUDY/RUN or STUDY/RUN@STEP names."""
    study, _, name = given.rpartition("/")
    name, at, step = name.partition("@")
    if not study or not name or (at and not step.isdecimal()):
        raise UserError(f"{given}: write STUDY/RUN or STUDY/RUN@STEP, for example quickstart/best or quickstart/final@0")
    with store_to_read(study, storage) as store:
        return scored_checkpoint(store, find_run(store, name), int(step) if at else None)
