"""Replaces training.precision "auto" by the study's precision, and warns when bf16 is emulated."""

import json
import os
import subprocess
import sys
from dataclasses import replace

from rich.console import Console

from mathsft.config.load import AUTO, PRECISION, Loaded, apply_overrides
from mathsft.config.schema import Experiment
from mathsft.config.study_schema import Choices
from mathsft.store.study_store import StudyStore
from mathsft.workers.machine import Machine
from mathsft.workers.placement import engine_dtype

ENGINE_PRECISION = "evaluation.precision"
MEASURE = (sys.executable, "-m", "mathsft.training.meter.gemm")
"""Runs in a separate process, because the driver does not import torch."""


def with_precision(loaded: Loaded, machine: Machine, store: StudyStore | None) -> Loaded:
    """Return the settings with "auto" resolved: to the precision of the study's runs, else to the best of this machine.

    A study therefore keeps its precision when it continues on another machine.
    """
    if loaded.experiment.training.precision != AUTO:
        return loaded
    began_with = (store.settings() or {}).get(PRECISION) if store is not None and store.runs() else None
    if began_with:
        return _resolved(loaded, PRECISION, began_with, "the study began with it")
    return _resolved(loaded, PRECISION, machine.auto_precision, machine.bf16_evidence)


def with_best_precision(experiment: Experiment, machine: Machine) -> Experiment:
    """Return an experiment without a study with "auto" resolved to the best precision of this machine."""
    if experiment.training.precision != AUTO:
        return experiment
    return apply_overrides(experiment, {PRECISION: machine.auto_precision})


def with_engine_precision(loaded: Loaded, machine: Machine) -> Loaded:
    """Return the settings with evaluation.precision resolved, for display only: placement sets the engine's precision."""
    if loaded.experiment.evaluation.precision != AUTO:
        return loaded
    if machine.cuda:
        precision = "bf16" if engine_dtype(loaded.experiment.evaluation, machine) == "bfloat16" else "fp32"
        return _resolved(loaded, ENGINE_PRECISION, precision, machine.bf16_evidence)
    return _resolved(loaded, ENGINE_PRECISION, "fp32", "a CPU, where greedy output must not depend on the batch")


def _resolved(loaded: Loaded, setting: str, precision: str, reason: str) -> Loaded:
    """Return the settings with this one resolved; it was not given, so it is no override."""
    return replace(
        loaded,
        experiment=apply_overrides(loaded.experiment, {setting: precision}),
        overrides={name: value for name, value in loaded.overrides.items() if name != setting},
        sources={**loaded.sources, setting: f"auto: {reason}"},
    )


def warn_if_emulated(loaded: Loaded, machine: Machine, console: Console) -> None:
    """Print one line if a run will compute in bf16 on hardware that only emulates it; the setting is not changed."""
    searched = loaded.study.search.get(PRECISION)
    tried = searched.choices if isinstance(searched, Choices) else (loaded.experiment.training.precision,)
    if "bf16" not in tried or machine.multiplies_bf16:
        return
    slower = "" if machine.cuda else f"matrix products take {_times_slower():.0f} times as long as in fp32, measured now; "
    console.print(
        f"{PRECISION} is bf16, which this machine only emulates ({machine.bf16_evidence}): {slower}a new study with "
        f"--set {PRECISION}=fp32 avoids that"
    )


def _times_slower() -> float:
    """Return the time of a matrix product in bf16 divided by its time in fp32, on one thread of this CPU."""
    done = subprocess.run(MEASURE, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    rates = json.loads(done.stdout)
    return float(rates["fp32"] / rates["bf16"])
