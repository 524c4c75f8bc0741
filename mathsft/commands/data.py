"""mathsft data: shows an experiment's data and their defects, the lengths of examples and the speed of training."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from pydantic_core import to_jsonable_python
from rich.console import Console

from mathsft.accounting import study_costs
from mathsft.accounting.forecast import model_size
from mathsft.accounting.measure import NotMeasuredError, measured_lengths, measured_speeds
from mathsft.commands.common import placement_for, run_to_end, with_local_model
from mathsft.commands.opening import NO_BARS, open_console
from mathsft.commands.precision import with_best_precision
from mathsft.config.load import load_experiment
from mathsft.config.schema import Experiment
from mathsft.data.folding import pool_key
from mathsft.data.model_check import check_model
from mathsft.data.models import is_on_hub_only
from mathsft.data.pools import LoadedData, load_data
from mathsft.data.quality import found
from mathsft.errors import OK, USER_ERROR, UserError
from mathsft.layout import StudyLayout
from mathsft.records import FindingKind, Problem
from mathsft.reporting.data_page import (
    DataPage,
    PredictedSpeed,
    findings_table,
    lengths_table,
    pools_table,
    speed_line,
    summarised,
    too_long,
)
from mathsft.tracking.heartbeat import Heartbeat
from mathsft.worker_settings import WorkerSpec
from mathsft.workers.machine import Machine, detect_machine

_DROPPABLE: tuple[tuple[FindingKind, str], ...] = (
    ("unreadable", "data.unreadable"),
    ("contradictory", "data.contradictions"),
)
"""Kinds of findings at which a study stops unless the setting is drop."""


def run(arguments: argparse.Namespace) -> int:
    """Print the page; return 0, or 2 if a study with these settings would stop at its data."""
    for name in NO_BARS:
        os.environ.setdefault(name, "1")
    console = Console(stderr=True) if arguments.json else open_console()
    experiment = load_experiment(arguments.experiment, arguments.set)
    with Heartbeat(console) as heartbeat:
        page = _page(experiment, detect_machine(), heartbeat)
    if arguments.json:
        open_console().out(json.dumps(to_jsonable_python(page), indent=2), highlight=False)
    else:
        _print(console, page)
    return USER_ERROR if page.stops else OK


def _page(experiment: Experiment, machine: Machine, heartbeat: Heartbeat) -> DataPage:
    dropping = experiment.data.model_copy(update={"unreadable": "drop", "contradictions": "drop"})
    with heartbeat.during("reading the problems"):
        data = load_data(dropping, experiment.task)
    train = data.pools["train"]
    page = DataPage(
        source=experiment.data.source,
        test_source=experiment.data.test_source,
        num_problems={name: len({pool_key(row.problem) for row in pool}) for name, pool in data.pools.items()},
        num_train_rows=len(train),
        quality=data.quality,
        lengths=None,
        speed=None,
        stops=tuple(_stops(experiment, data)),
        notes=(),
    )
    if is_on_hub_only(experiment.model.path):
        note = f"The model {experiment.model.path} is not on this machine, so lengths and speed are not known."
        return replace(page, notes=(note,))
    if not train:
        return replace(page, stops=(*page.stops, "no problem is left to train on; add more problems to data.source"))
    try:
        return _with_model(page, experiment, data, machine, heartbeat)
    except UserError as error:
        return replace(page, stops=(*page.stops, str(error)))


def _stops(experiment: Experiment, data: LoadedData) -> list[str]:
    """Return why a study would stop, although this command reads on."""
    settings = {"data.unreadable": experiment.data.unreadable, "data.contradictions": experiment.data.contradictions}
    kinds = {finding.kind for finding in data.quality.findings}
    return [
        f"{setting} is error: correct these rows, or leave them out with --set {setting}=drop"
        for kind, setting in _DROPPABLE
        if kind in kinds and settings[setting] == "error"
    ]


def _with_model(
    page: DataPage, experiment: Experiment, data: LoadedData, machine: Machine, heartbeat: Heartbeat
) -> DataPage:
    """Return the page with what the model's tokenizer and its size tell; raises UserError if it does not fit the data."""
    local = with_best_precision(with_local_model(experiment, heartbeat), machine)
    train, limit_tokens = data.pools["train"], local.training.max_length_tokens
    problems = [problem for pool in data.pools.values() for problem in pool]
    check_model(Path(local.model.path), local, problems, on_cpu=not machine.cuda)
    with TemporaryDirectory() as folder:
        trainer = placement_for(machine, local, StudyLayout(Path(folder)), "study").trainers[0]
        try:
            with heartbeat.during("counting tokens"):
                lengths = run_to_end(measured_lengths(trainer, train))
        except NotMeasuredError as error:
            return replace(page, notes=(f"The lengths of examples are not known: {error}",))
        longer = too_long(train, lengths, limit_tokens)
        page = replace(
            page,
            lengths=summarised(lengths, limit_tokens),
            quality=replace(page.quality, findings=found(*page.quality.findings, longer)),
        )
        fitting = [length for length in lengths if length <= limit_tokens]
        if not fitting:
            raise UserError(f"no example fits into training.max_length_tokens = {limit_tokens}; raise it")
        with heartbeat.during("measuring the speed of training"):
            example_seconds, basis = _example_seconds(local, trainer, train)
    speed = PredictedSpeed(fmean(fitting) / example_seconds, len(fitting) * example_seconds, basis)
    return replace(page, speed=speed)


def _example_seconds(experiment: Experiment, trainer: WorkerSpec, train: tuple[Problem, ...]) -> tuple[float, str]:
    """Return the seconds of training on one example in a batch of the experiment's size, and where they are from."""
    batch_size = experiment.training.batch_size
    try:
        speeds, basis = run_to_end(measured_speeds(trainer, train, [batch_size], 1)), "measured in a few steps just now"
    except NotMeasuredError as error:
        num_parameters = model_size(Path(experiment.model.path)).num_parameters
        speeds = study_costs.assumed_speeds(num_parameters, experiment, train, trainer.settings.worker_device)
        basis = f"a guess from the model's size, because measuring failed: {error}"
    return speeds.example_seconds + speeds.step_seconds / batch_size, basis


def _print(console: Console, page: DataPage) -> None:
    lengths = [lengths_table(page.lengths).terminal()] if page.lengths else []
    for table in (pools_table(page).terminal(), findings_table(page), *lengths):
        console.print(table)
    if page.speed is not None:
        console.print(speed_line(page.speed), markup=False)
    for note in page.notes:
        console.print(note, markup=False)
    for stop in page.stops:
        console.print(f"A study would stop: {stop}", markup=False)
