"""What simulated studies search: families of surfaces of accuracy over learning rate and batch size."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.special import expit

from mathsft.config.schema import Scalar
from mathsft.config.study_schema import Choices, FloatRange, SearchRange
from mathsft.records import Overrides
from mathsft.statistics.surface import position

RATE, BATCH = "training.learning_rate", "training.batch_size"
SPACE: dict[str, SearchRange] = {
    RATE: FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    BATCH: Choices(type="categorical", choices=(8, 16, 32, 64, 128)),
}
QUICKSTART = Path(__file__).parent / "data" / "quickstart_surface.json"

Point: TypeAlias = NDArray[np.float64]
"""Shape (2,): the positions of learning rate and batch size in their ranges, from 0 to 1."""
Accuracy: TypeAlias = Callable[[Point], float]


def place(settings: Overrides) -> Point:
    return np.array([math.log10(float(settings[RATE]) / 1e-5) / 3, math.log2(float(settings[BATCH]) / 8) / 4])


GRID = [{RATE: float(rate), BATCH: batch} for rate in np.geomspace(1e-5, 1e-2, 121) for batch in (8, 16, 32, 64, 128)]


# ---- families of surfaces, each drawn at random


def quadratic(rng: np.random.Generator) -> Accuracy:
    """Return a paraboloid of random direction that is flat at a distance."""
    centre, top, drop, width, angle = _centre(rng), *_height(rng), rng.uniform(0.3, 0.6), rng.uniform(-0.8, 0.8)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [0.5 * math.sin(angle), 0.5 * math.cos(angle)]])
    return lambda at: top - drop * min(1.0, float(np.sum((turn @ (at - centre)) ** 2)) / width**2)


def plateau(rng: np.random.Generator) -> Accuracy:
    """Return a surface that is flat near its centre and falls steeply around that."""
    centre, top, drop, width = _centre(rng), *_height(rng), rng.uniform(0.25, 0.5)
    stretch = np.array([1.0, 0.5])
    return lambda at: top - drop * float(expit(8 * (np.linalg.norm(stretch * (at - centre)) / width - 1)))


def ridge(rng: np.random.Generator) -> Accuracy:
    """Return a ridge: the best learning rate grows with the batch size, and the height along the ridge hardly changes."""
    centre, top, drop, width = _centre(rng), *_height(rng), rng.uniform(0.25, 0.5)

    def accuracy(at: Point) -> float:
        rate, batch = at - centre
        return top - drop * min(1.0, ((rate - 0.35 * batch) / width) ** 2) - 0.03 * abs(batch)

    return accuracy


def asymmetric(rng: np.random.Generator) -> Accuracy:
    """Return a surface that falls slowly below the best learning rate and steeply above it."""
    centre, top, drop = _centre(rng), *_height(rng)

    def accuracy(at: Point) -> float:
        rate, batch = at - centre
        off = rate - 0.25 * batch
        return top - drop * min(1.0, (off / (0.9 if off < 0 else 0.25)) ** 2) - 0.04 * batch**2

    return accuracy


def rough(smooth: Callable[[np.random.Generator], Accuracy]) -> Callable[[np.random.Generator], Accuracy]:
    """Return the family with 25 added bumps and dents of up to 5 points, each about as wide as the distance of trials."""

    def family(rng: np.random.Generator) -> Accuracy:
        below = smooth(rng)
        places, heights, widths = rng.uniform(0, 1, (25, 2)), rng.uniform(-0.05, 0.05, 25), rng.uniform(0.05, 0.15, 25)

        def accuracy(at: Point) -> float:
            return below(at) + float(heights @ np.exp(-np.sum((at - places) ** 2, axis=1) / (2 * widths**2)))

        return accuracy

    return family


def quickstart(rng: np.random.Generator) -> Accuracy:
    """Return the quickstart's measured surface, interpolated linearly; it does not depend on rng."""
    return _measured()


@lru_cache
def _measured() -> Accuracy:
    rows = json.loads(QUICKSTART.read_text(encoding="utf-8"))["trials"]
    points = np.array([place({RATE: row["learning_rate"], BATCH: row["batch_size"]}) for row in rows])
    accuracies = np.array([row["num_correct"] / row["num_problems"] for row in rows])
    between, beyond = LinearNDInterpolator(points, accuracies), NearestNDInterpolator(points, accuracies)

    def accuracy(at: Point) -> float:
        inside = float(between(at)[0])
        return float(beyond(at)[0]) if math.isnan(inside) else inside

    return accuracy


def _centre(rng: np.random.Generator) -> Point:
    return rng.uniform([0.3, 0.0], [0.8, 1.0])


def _height(rng: np.random.Generator) -> tuple[float, float]:
    top = rng.uniform(0.3, 0.7)
    return top, top * rng.uniform(0.5, 1.0)


SMOOTH = {"quadratic": quadratic, "plateau": plateau, "ridge": ridge, "asymmetric": asymmetric}
ROUGH = {f"rough {name}": rough(family) for name, family in SMOOTH.items()}
FAMILIES = {**SMOOTH, **ROUGH, "quickstart": quickstart}


@dataclass(frozen=True)
class Surface:
    """Accuracy over the settings of a search space."""

    space: Mapping[str, SearchRange]
    accuracy: Callable[[Overrides], float]
    """The accuracy of a setting over all seeds and problems."""
    best: float
    """Of all settings."""
    speed_setting: str = RATE

    def speed(self, settings: Overrides) -> float:
        """Return how fast a trial learns: 0 at the low end of the learning rates, 1 at the high end."""
        at = position(self.space[self.speed_setting], settings[self.speed_setting])
        return 0.5 if at is None else at

    def own_settings(self, rng: np.random.Generator) -> dict[str, Scalar]:
        """Return an experiment's own settings: a rate in the middle of the range, and the middle choice of all others."""
        share = rng.uniform(0.17, 0.67)
        drawn: dict[str, Scalar] = {}
        for name, given in self.space.items():
            if isinstance(given, Choices):
                drawn[name] = given.choices[len(given.choices) // 2]
            else:
                drawn[name] = float(given.low) * (float(given.high) / float(given.low)) ** share
        return drawn


def surface_of(family: str, rng: np.random.Generator) -> Surface:
    """Return a surface of a family, drawn at random."""
    if family in MEASURED:
        return MEASURED[family](rng)
    at_point = FAMILIES[family](rng)

    def accuracy(settings: Overrides) -> float:
        return float(np.clip(at_point(place(settings)), 0.01, 0.95))

    return Surface(SPACE, accuracy, max(map(accuracy, GRID)))


MEASURED: dict[str, Callable[[np.random.Generator], Surface]] = {}
"""Families of measured grids, which `bench.measured_grids` adds."""
