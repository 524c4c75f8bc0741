"""How a command begins: its terminal, its settings and its first line, before anything is imported that takes long."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from mathsft.config.load import Loaded, load_settings
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.machine import Machine, detect_machine

WIDTH = 110
QUICKSTART, REAL = "quickstart", "qwen2.5-math-1.5b"
NO_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""The heartbeat says what is waited for; bars of libraries would be drawn into its line."""


@dataclass(frozen=True)
class Opening:
    """What a study and a final run begin with."""

    machine: Machine
    loaded: Loaded
    heartbeat: Heartbeat

    @property
    def console(self) -> Console:
        """Return the terminal."""
        return self.heartbeat.console


@contextmanager
def opening(arguments: argparse.Namespace) -> Iterator[Opening]:
    """Load the settings and write the first line; from then on the terminal is never silent for long."""
    for name in NO_BARS:
        os.environ.setdefault(name, "1")
    machine, heartbeat = detect_machine(), Heartbeat(open_console())
    with heartbeat:
        loaded = load(arguments, machine, heartbeat.console)
        if arguments.study is not None:
            heartbeat.console.print(f"Study {loaded.study_name}, experiment {loaded.experiment_name}")
        with heartbeat.during("preparing"):
            yield Opening(machine, loaded, heartbeat)


def open_console() -> Console:
    """Return the terminal, or lines wide enough for the tables where the output goes elsewhere."""
    if sys.stdout.isatty():
        return Console(soft_wrap=True, highlight=False)
    return Console(soft_wrap=True, highlight=False, width=WIDTH, force_interactive=False)  # whatever FORCE_COLOR says


def load(arguments: argparse.Namespace, machine: Machine, console: Console) -> Loaded:
    """Load the settings; without --study take the one that fits the machine, saying so."""
    name = arguments.study or _default_study(machine)
    if arguments.study is None and machine.cuda:
        console.print(f"{len(machine.cuda)} CUDA devices: study {REAL} (the small one: --study {QUICKSTART})")
    elif arguments.study is None:
        console.print(f"No CUDA device: the embedded quickstart, a model of 0.9 M parameters (the real one: --study {REAL})")
    assignments = list(arguments.set)
    flags = {
        "trials": "num_trials",
        "hours": "max_hours",
        "learning_rate": "training.learning_rate",
        "batch_size": "training.batch_size",
    }
    for flag, setting in flags.items():
        if getattr(arguments, flag, None) is not None:
            assignments.append(f"{setting}={getattr(arguments, flag)}")
    return load_settings(name, arguments.experiment, assignments)


def _default_study(machine: Machine) -> str:
    return REAL if machine.cuda else QUICKSTART


def settings_options(arguments: argparse.Namespace, machine: Machine) -> list[str]:
    """Return the options with which another command reads the same settings; nothing where they are the default ones."""
    options = [] if arguments.study in (None, _default_study(machine)) else ["--study", arguments.study]
    options += ["--experiment", arguments.experiment] if arguments.experiment else []
    for assignment in arguments.set:
        options += ["--set", assignment]
    return options
