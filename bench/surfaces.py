"""Simulates what bench.selection searches: accuracy surfaces over learning rate and batch size, and trials on them."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.special import expit

from mathsft.config.schema import (
    Choices,
    DataSettings,
    Experiment,
    FloatRange,
    ModelSettings,
    SearchRange,
    TrainingSettings,
)
from mathsft.records import Overrides, Plan, Run
from mathsft.runs.results import TrialResult
from mathsft.seeds import derive_seed

RATE, BATCH = "training.learning_rate", "training.batch_size"
SPACE: dict[str, SearchRange] = {
    RATE: FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    BATCH: Choices(type="categorical", choices=(8, 16, 32, 64, 128)),
}
QUICKSTART = Path(__file__).parent / "data" / "quickstart_surface.json"

NUM_SEARCH, NUM_CONFIRM = 200, 875
MAX_SEARCH = 600
"""Search problems of a world: the naive rule spends the confirm stage's budget on them."""
SEED_SD = 0.012
"""Standard deviation of the accuracy of trials that differ only in their seed."""
DIFFICULTY_SD = 1.8
"""Standard deviation of the problems' difficulty in logits: two trials at 50 % disagree on 30 % of the problems."""
PLAN = Plan(1, (1.0,), "search", 1, "last")
EXPERIMENT = Experiment(
    model=ModelSettings(path="simulated"),
    data=DataSettings(source="simulated"),
    training=TrainingSettings(learning_rate=1e-3, batch_size=1),
)
"""A placeholder that no simulated trial reads."""

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


# ---- a world: a surface, its problems, and the trials trained in it


@dataclass(frozen=True)
class Trained:
    """One trial of a simulated study."""

    run: Run
    setting_accuracy: float
    """Expected accuracy of the setting over all seeds and problems."""
    accuracy: float
    """Accuracy of this checkpoint over all problems."""
    search: NDArray[np.bool_]
    confirm: NDArray[np.bool_]

    def result(self, slices: tuple[str, ...] = ()) -> TrialResult:
        """Return the result that is recorded when these slices of the confirm pool are scored."""
        outcomes = {"search": tuple(self.search[:NUM_SEARCH].tolist())}
        for pool in slices:
            start, stop = map(int, pool.removeprefix("confirm:").split("-"))
            outcomes[pool] = tuple(self.confirm[start:stop].tolist())
        return TrialResult(self.run, outcomes)


class World:
    """A surface and problems of different difficulty, drawn from the seed."""

    def __init__(self, family: str, seed: int) -> None:
        self._seed = derive_seed(family, seed)
        rng = np.random.default_rng(self._seed)
        surface = FAMILIES[family](rng)
        self._surface: Callable[[Overrides], float] = lambda settings: float(np.clip(surface(place(settings)), 0.01, 0.95))
        self.best = max(self._surface(settings) for settings in GRID)
        self.own_settings = {RATE: float(10 ** rng.uniform(-4.5, -3.0)), BATCH: 32}
        self._difficulties = rng.normal(0, DIFFICULTY_SD, MAX_SEARCH + NUM_CONFIRM)

    def train(self, number: int, settings: Overrides) -> Trained:
        """Return a simulated trial with its outcome on each problem."""
        rng = np.random.default_rng([self._seed, number])
        expected = self._surface(settings)
        accuracy = float(np.clip(expected + rng.normal(0, SEED_SD), 0.002, 0.98))
        solved = rng.random(self._difficulties.size) < expit(_ability(accuracy) - self._difficulties)
        run = Run(
            name=f"trial-{number}",
            kind="trial",
            overrides=dict(settings),
            experiment=EXPERIMENT,
            plan=PLAN,
            seed=number,
            number=number,
            state="finished",
            value=float(solved[:NUM_SEARCH].mean()),
        )
        return Trained(run, expected, accuracy, solved[:MAX_SEARCH], solved[MAX_SEARCH:])


def _ability(accuracy: float) -> float:
    """Return the ability, in logits, that solves this share of all problems."""
    abilities, shares = _ability_table()
    return float(np.interp(accuracy, shares, abilities))


@lru_cache
def _ability_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    abilities = np.linspace(-15, 12, 1000)
    return abilities, expit(abilities[:, None] - DIFFICULTY_SD * nodes) @ (weights / weights.sum())
