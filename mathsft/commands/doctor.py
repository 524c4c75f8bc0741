"""mathsft doctor: checks the machine, the chosen study and the workers; one line each, or one JSON object.

Only this file and `check_results` are imported before the packages are checked, since a package may be missing.
"""

import argparse
import sys

from mathsft.commands.check_results import Findings
from mathsft.packages import installation_problem


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 0, or 2 if something must be changed. With --hardware print the placement there."""
    if problem := installation_problem():
        findings = Findings(_write, is_shown=not arguments.json)
        findings.refuse("packages", problem)
        if arguments.json:
            _write(findings.json())
        return findings.exit_code
    # Imported here, because they need the packages.
    if arguments.hardware is not None:
        from mathsft.commands.hardware import placements_on

        text, exit_code = placements_on(arguments)
        _write(text)
        return exit_code
    from mathsft.commands.examination import examine

    findings = examine(arguments)
    if arguments.json:
        _write(findings.json())
    return findings.exit_code


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
