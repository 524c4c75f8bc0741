"""Measured grids of loss by two settings, as surfaces for simulated studies; nothing of these data is in this repository.

Step Law (github.com/step-law/steplaw, no licence): 17 dense pre-training grids of learning rate and batch size.
Tinker (thinking-machines-lab/tinker-cookbook, Apache-2.0): LoRA fine-tuning of 35 models by learning rate and rank; here the
rank takes the place of the batch size. A loss becomes an accuracy in one of two ways, since nobody measured the accuracies.
"""

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from bench.surfaces import BATCH, MEASURED, RATE, Surface
from mathsft.config.study_schema import Choices, FloatRange, SearchRange
from mathsft.records import Overrides
from mathsft.statistics.surface import position

STEP_LAW_FILE = "data/dense_lr_bs_loss.csv"
MIN_POINTS = 12
"""Of a grid; Tinker's tables of fewer are left out."""
DIVERGED_NLL = 2.0
"""Tinker's own limit between a run and a diverged one."""


@dataclass(frozen=True)
class Grid:
    """Losses at points of a learning rate and a second setting."""

    rates: tuple[float, ...]
    seconds: tuple[int, ...]
    losses: tuple[float, ...]


def add_step_law(folder: Path) -> None:
    """Add the families "step law, linear" and "step law, exponential" from a clone of the repository."""
    points: dict[tuple[str, str], list[tuple[float, int, float]]] = {}
    with (folder / STEP_LAW_FILE).open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            loss = float(row["smooth loss"] or row["loss"])
            points.setdefault((row["N"], row["D"]), []).append((float(row["lr"]), int(row["bs"]), loss))
    grids = [_grid(found) for found in points.values()]
    for name, to_accuracy in {"linear": _linear, "exponential": _exponential}.items():
        MEASURED[f"step law, {name}"] = partial(_surface, grids, to_accuracy)


def add_tinker(path: Path) -> None:
    """Add the family "tinker" from sft_sweep.md."""
    row = re.compile(r"\| (\d[\d.e+-]*) \| (\d+) \| ([\d.]+) \| [\d.]+ \|")
    tables = [
        [(float(rate), int(rank), min(float(loss), DIVERGED_NLL)) for rate, rank, loss in row.findall(section)]
        for section in path.read_text(encoding="utf-8").split("\n## ")
    ]
    grids = [_grid(table) for table in tables if len(table) >= MIN_POINTS]
    MEASURED["tinker"] = partial(_surface, grids, _linear)


def _grid(points: Sequence[tuple[float, int, float]]) -> Grid:
    return Grid(*map(tuple, zip(*points, strict=True)))  # type: ignore[arg-type]


def _linear(losses: Sequence[float], top: float) -> list[float]:
    """The worst tenth has a tenth of the best accuracy, and the rest lies on the line between."""
    best, bad = min(losses), float(np.quantile(losses, 0.9))
    return [top * max(0.02, 1 - 0.9 * (loss - best) / (bad - best)) for loss in losses]


def _exponential(losses: Sequence[float], top: float) -> list[float]:
    """The median loss has three quarters of the best accuracy, and each more of the same distance again."""
    best, middle = min(losses), float(np.median(losses))
    return [top * max(0.02, 0.75 ** ((loss - best) / (middle - best))) for loss in losses]


def _surface(
    grids: Sequence[Grid], to_accuracy: Callable[[Sequence[float], float], list[float]], rng: np.random.Generator
) -> Surface:
    """Return a grid drawn at random, with straight lines between its points."""
    grid, top = grids[int(rng.integers(len(grids)))], rng.uniform(0.3, 0.7)
    accuracies = np.array(to_accuracy(grid.losses, top))
    space: dict[str, SearchRange] = {
        RATE: FloatRange(type="float", low=min(grid.rates), high=max(grid.rates), log=True),
        BATCH: Choices(type="categorical", choices=tuple(sorted(set(grid.seconds)))),
    }
    points = np.array(
        [
            [position(space[RATE], rate), position(space[BATCH], second)]
            for rate, second in zip(grid.rates, grid.seconds, strict=True)
        ]
    )
    between, beyond = LinearNDInterpolator(points, accuracies), NearestNDInterpolator(points, accuracies)

    def accuracy(settings: Overrides) -> float:
        at = [position(space[name], settings[name]) for name in (RATE, BATCH)]
        inside = float(between([at])[0])
        return float(beyond([at])[0]) if math.isnan(inside) else inside

    return Surface(space, accuracy, float(accuracies.max()))
