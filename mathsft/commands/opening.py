"""Begins a command: opens the terminal, loads the settings and writes the first line, before any slow import."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from mathsft.commands.backends import backend_options, nodes_of, opened_backend
from mathsft.config.files import results_folder
from mathsft.config.load import Loaded, load_settings
from mathsft.layout import StudyLayout
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.workers.backend import Backend
from mathsft.workers.cluster_placement import common_machine
from mathsft.workers.machine import Machine, detect_machine
from mathsft.workers.spawn import SpawnBackend

WIDTH = 116
QUICKSTART, REAL = "quickstart", "qwen2.5-math-1.5b"
FLAGS = {
    "trials": "num_trials",
    "hours": "max_hours",
    "storage": "storage",
    "learning_rate": "training.learning_rate",
    "batch_size": "training.batch_size",
}
"""Flags that are short for --set, with their settings."""
NO_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Variables that turn off the progress bars of libraries, which would overwrite the heartbeat's line."""


@dataclass(frozen=True)
class CommandContext:
    """The machine, the settings, the study's folder and the heartbeat with which a study or a final run begins."""

    machine: Machine
    """This machine, or what all nodes of a cluster have in common."""
    loaded: Loaded
    layout: StudyLayout
    heartbeat: Heartbeat
    backend: Backend = field(default_factory=SpawnBackend)
    nodes: tuple[Machine, ...] = ()
    """The nodes of a cluster; none for this machine."""

    @property
    def console(self) -> Console:
        """Return the terminal."""
        return self.heartbeat.console


@contextmanager
def open_command(arguments: argparse.Namespace) -> Iterator[CommandContext]:
    """Load the settings and write the first line; the heartbeat shows the activities while the body runs."""
    for name in NO_BARS:
        os.environ.setdefault(name, "1")
    heartbeat = Heartbeat(open_console())
    with heartbeat, opened_backend(arguments, heartbeat) as backend:
        nodes = nodes_of(backend)
        machine = common_machine(nodes) if nodes else detect_machine()
        loaded = load(arguments, machine, heartbeat.console)
        if arguments.study is not None:
            heartbeat.console.print(f"Study {loaded.study_name}, experiment {loaded.experiment_name}")
        with heartbeat.during("preparing"):
            yield CommandContext(machine, loaded, layout_of(loaded), heartbeat, backend, nodes)


def layout_of(loaded: Loaded) -> StudyLayout:
    """Return the layout of the folder with the study's results."""
    return StudyLayout(results_folder(loaded.study_path).absolute())


def open_console() -> Console:
    """Return a console on stdout; if that is no terminal, its lines are wide enough for the tables."""
    if sys.stdout.isatty():
        return Console(soft_wrap=True, highlight=False)
    return Console(soft_wrap=True, highlight=False, width=WIDTH, force_interactive=False)  # also with FORCE_COLOR


def load(arguments: argparse.Namespace, machine: Machine, console: Console) -> Loaded:
    """Load the settings; without --study choose the study for this machine, and print its name."""
    name = arguments.study or _default_study(machine)
    if arguments.study is None and machine.cuda:
        console.print(f"{len(machine.cuda)} CUDA devices: study {REAL} (small model: --study {QUICKSTART})")
    elif arguments.study is None and machine.refused_devices:
        console.print(f"No CUDA device can be used: {machine.refused_devices[0]}", markup=False)
    elif arguments.study is None:
        console.print(f"No CUDA device: the embedded quickstart, a model of 0.9 M parameters (full size: --study {REAL})")
    given = {setting: getattr(arguments, flag, None) for flag, setting in FLAGS.items()}
    assignments = [f"{setting}={value}" for setting, value in given.items() if value is not None]
    return load_settings(name, arguments.experiment, [*arguments.set, *assignments])


def _default_study(machine: Machine) -> str:
    return REAL if machine.cuda else QUICKSTART


def storage_options(storage: str | None) -> list[str]:
    """Return the options that give another command the same database; none for the default one."""
    return ["--storage", storage] if storage else []


def settings_options(arguments: argparse.Namespace, machine: Machine) -> list[str]:
    """Return the options that give another command the same settings; empty for the default settings."""
    options = [] if arguments.study in (None, _default_study(machine)) else ["--study", arguments.study]
    options += ["--experiment", arguments.experiment] if arguments.experiment else []
    options += storage_options(arguments.storage) + backend_options(arguments)
    return options + [word for assignment in arguments.set for word in ("--set", assignment)]
