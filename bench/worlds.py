"""A simulated world: a surface of accuracy over settings, problems of different difficulty, and trials that learn in it.

A trial's accuracy rises from the base model's to the end's along a curve. Curves cross: with a low learning rate a trial
learns late, so that it looks worse early than it is. Trials of one setting differ by their seed. All trials solve the same
problems, whose difficulties make their outcomes alike.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bench.surfaces import Surface, surface_of
from mathsft.config.schema import Scalar
from mathsft.records import Overrides
from mathsft.seeds import derive_seed

NUM_SEARCH, NUM_CONFIRM = 200, 875
MAX_SEARCH = 600
"""Search problems of a world: naive studies with more problems a trial use them."""
SEED_SD = 0.012
"""Standard deviation of the accuracy of trials that differ in their seed alone."""
CHECKPOINT_SD = 0.006
"""Standard deviation that each checkpoint adds."""
DIFFICULTY_SD = 1.8
"""Standard deviation of the difficulty of problems, in logits: two trials at 50 % disagree on 30 % of the problems."""
BASE_SHARE = 0.15
"""Accuracy of the base model, as a share of the best."""
SLOWEST, FASTEST = 0.5, 6.0
"""Rate of learning at the low and the high end of the learning rates: 0 is a straight line over the run."""


@dataclass(frozen=True)
class Trained:
    """One checkpoint of a simulated trial; accuracies are over all problems."""

    setting_accuracy: float
    """Over all seeds, at the end of training: what a final run may hope for."""
    accuracy: float
    search: NDArray[np.bool_]
    confirm: NDArray[np.bool_]


class World:
    """A surface and problems of different difficulty, all drawn from the seed."""

    def __init__(self, family: str, seed: int) -> None:
        self.seed = derive_seed(family, seed)
        rng = np.random.default_rng(self.seed)
        self.surface: Surface = surface_of(family, rng)
        self.space = self.surface.space
        self.best = self.surface.best
        self.own_settings: dict[str, Scalar] = self.surface.own_settings(rng)
        self._base = BASE_SHARE * self.best
        self._difficulties = rng.normal(0, DIFFICULTY_SD, MAX_SEARCH + NUM_CONFIRM)

    def train(self, number: int, settings: Overrides, fraction: float = 1.0) -> Trained:
        """Return the checkpoint of the trial after this fraction of its training; equal calls return equal checkpoints."""
        rng = np.random.default_rng([self.seed, number])
        expected = self.surface.accuracy(settings)
        end = expected + rng.normal(0, SEED_SD)
        luck = rng.random(self._difficulties.size)
        of_checkpoint = np.random.default_rng([self.seed, number, round(1000 * fraction)])
        if fraction < 1:
            end = self._base + (end - self._base) * _learned(fraction, self.surface.speed(settings))
            end += of_checkpoint.normal(0, CHECKPOINT_SD)
            is_new = of_checkpoint.random(luck.size) < 0.5  # half of the answers of an earlier checkpoint are other ones
            luck = np.where(is_new, of_checkpoint.random(luck.size), luck)
        accuracy = float(np.clip(end, 0.002, 0.98))
        solved = luck < expit(_ability(accuracy) - self._difficulties)
        return Trained(expected, accuracy, solved[:MAX_SEARCH], solved[MAX_SEARCH:])


def _learned(fraction: float, speed: float) -> float:
    """Return the share of what a run learns that it has learned after a fraction of its steps."""
    rate = SLOWEST + (FASTEST - SLOWEST) * speed
    return (1 - exp(-rate * fraction)) / (1 - exp(-rate))


def _ability(accuracy: float) -> float:
    """Return the logit at which this share of all problems is solved."""
    abilities, shares = _ability_table()
    return float(np.interp(accuracy, shares, abilities))


@lru_cache
def _ability_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    abilities = np.linspace(-15, 12, 1000)
    return abilities, expit(abilities[:, None] - DIFFICULTY_SD * nodes) @ (weights / weights.sum())
