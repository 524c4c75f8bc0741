"""Generates the embedded quickstart's training and held-out problems, and locates the folder of its base model."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mathsft.records import Problem
from mathsft.tasks.quickstart.families import FAMILIES, LEVELS
from mathsft.tasks.rows import pool_position

HELD_OUT_SHARE = 0.25
"""A problem with a pool_position below this is held out: it is for evaluation and never in the pre-training corpus."""


def generate(num_train: int, num_heldout: int) -> list[Problem]:
    """Return num_train problems to train on, then num_heldout held-out problems: all distinct, the same on every machine."""
    rng = random.Random("quickstart")
    train: dict[str, Problem] = {}
    heldout: dict[str, Problem] = {}
    # The loop always ends: the higher levels have many millions of texts.
    while len(train) < num_train or len(heldout) < num_heldout:
        problem = draw_problem(rng)
        kind, num_wanted = (heldout, num_heldout) if is_held_out(problem) else (train, num_train)
        if len(kind) < num_wanted:
            kind.setdefault(problem.problem, problem)
    return [*train.values(), *heldout.values()]


def is_held_out(problem: Problem) -> bool:
    """Return whether the problem is held out for evaluation."""
    return pool_position(problem.problem) < HELD_OUT_SHARE


def draw_problem(rng: random.Random, levels: Sequence[int] = LEVELS) -> Problem:
    """Return one problem of a random family and of one of the levels; the same text may be drawn again."""
    family, level = rng.choice(FAMILIES), rng.choice(levels)
    return replace(family(rng, level), level=level)


def base_model_folder() -> Path:
    """Return the folder of the embedded base model, in Hugging Face's layout (made by tools/make_base.py)."""
    return Path(__file__).parent / "base_model"
