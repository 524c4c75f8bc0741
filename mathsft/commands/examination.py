"""The checks of mathsft doctor in their order, and the choice of those that apply to a machine."""

import argparse
import os
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from mathsft.commands import host_checks
from mathsft.commands.check_results import Findings
from mathsft.commands.common import log_to, placement_for, run_to_end
from mathsft.commands.opening import NO_BARS, CommandContext, open_console
from mathsft.config.schema import Experiment
from mathsft.errors import OK
from mathsft.layout import StudyLayout
from mathsft.runs.worker_checks import NUM_RANKS, WorkerChecks, check_experiment
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.machine import Machine
from mathsft.workers.placement import Placement

CHECKS = (
    "packages",
    "device",
    "workers",
    "cpu",
    "compiler",
    "shm",
    "settings",
    "model",
    "data",
    "placement",
    "memory",
    "disk",
    "database",
    "wandb",
    "attention",
    "ranks",
    "training",
    "engine",
    "sleep",
    "forecast",
)
"""All checks, in their order."""


def applicable(machine: Machine) -> tuple[str, ...]:
    """Return the names of the checks that apply to a machine, in their order."""
    applies = {
        "compiler": bool(machine.cuda),  # Triton compiles C code; a CPU's workers compile nothing
        "ranks": len(machine.cuda) >= host_checks.MIN_RANK_DEVICES,
        "sleep": len(machine.cuda) == 1,  # with a large model, trainer and engine take turns
    }
    return tuple(name for name in CHECKS if applies.get(name, True))


def check_placement(machine: Machine, small: Experiment, layout: StudyLayout) -> Placement:
    """Return the placement of a study with this experiment, whose engine can sleep if that is to be checked."""
    placement = placement_for(machine, small, layout, "study")
    if "sleep" not in applicable(machine):
        return placement
    (evaluator,) = placement.evaluators
    sleeping = replace(evaluator.settings.worker_device, sleep_mode=True)
    return replace(placement, evaluators=(replace(evaluator, settings=replace(evaluator.settings, worker_device=sleeping)),))


def examine(arguments: argparse.Namespace) -> Findings:
    """Make all checks that apply, and show each result at once; with --json show progress only, on standard error."""
    for name in NO_BARS:
        os.environ.setdefault(name, "1")
    console = Console(stderr=True) if arguments.json else open_console()
    findings = Findings(partial(console.print, markup=False), is_shown=not arguments.json)
    layout = StudyLayout(Path(tempfile.mkdtemp(prefix="mathsft-doctor-")))
    log_to(layout.log("driver"))
    try:
        with Heartbeat(console) as heartbeat, heartbeat.during("checking"):
            _examine(arguments, findings, heartbeat, layout)
        if findings.exit_code != OK:
            console.print(f"Logs of these checks: {layout.logs}", markup=False)
    finally:
        if findings.exit_code == OK:
            shutil.rmtree(layout.root, ignore_errors=True)
    return findings


def _examine(arguments: argparse.Namespace, findings: Findings, heartbeat: Heartbeat, layout: StudyLayout) -> None:
    findings.check("packages", host_checks.found_packages)
    machine = findings.get("device", host_checks.found_devices)
    if machine is None:
        return
    findings.applicable = applicable(machine)
    small = check_experiment(machine.auto_precision)
    placement = findings.get("workers", partial(_placed, machine, small, layout))
    if placement is None:
        return
    ranks = None
    if "ranks" in findings.applicable:
        (ranks,) = placement_for(machine, small, layout, "final", NUM_RANKS).trainers
    # The workers import their libraries while the first checks are made.
    with WorkerChecks.started(placement, ranks) as workers:
        context = _check_host(arguments, findings, heartbeat, machine)
        with heartbeat.during("checking trainer and engine"):
            findings.check("attention", lambda: run_to_end(workers.attention()))
            findings.check("ranks", lambda: run_to_end(workers.ranks()))
            findings.check("training", lambda: run_to_end(workers.training()))
            is_serving = findings.check("engine", lambda: run_to_end(workers.engine()))
            findings.check("sleep", (lambda: run_to_end(workers.sleep())) if is_serving else None, "engine")
    findings.check("forecast", partial(host_checks.found_forecast, context) if context else None, "model, data and database")


def _placed(machine: Machine, small: Experiment, layout: StudyLayout) -> tuple[str, Placement]:
    placement = check_placement(machine, small, layout)
    return f"of the checks: {placement.description}", placement


def _check_host(
    arguments: argparse.Namespace, findings: Findings, heartbeat: Heartbeat, machine: Machine
) -> CommandContext | None:
    """Make the checks that need no worker; return the study's context if its time can be predicted."""
    findings.check("cpu", partial(host_checks.found_cpu, machine))
    findings.check("compiler", host_checks.found_compiler)
    findings.check("shm", partial(host_checks.found_shared_memory, machine))
    context = findings.get("settings", partial(host_checks.found_settings, arguments, machine, heartbeat))
    if context is None:
        return None
    local = findings.get("model", partial(host_checks.found_model, context))
    is_readable = findings.check("data", partial(host_checks.found_data, context, local))
    placed = partial(host_checks.found_placement, context, local) if local else None
    footprint = findings.get("placement", placed, "model")
    findings.check("memory", partial(host_checks.found_memory, machine, footprint))
    findings.check("disk", partial(host_checks.found_disk, context.layout, footprint))
    is_usable = findings.check("database", partial(host_checks.found_database, context))
    findings.check("wandb", partial(host_checks.found_wandb, context.loaded.study.wandb))
    return context if footprint and is_readable and is_usable else None
