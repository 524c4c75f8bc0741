"""The embedded quickstart: its problems to train on and to hold out, and the folder of its base model; no file is read.

Which pool a problem belongs to is decided in `pools`.
"""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from mathsft.data.pool_positions import pool_position
from mathsft.data.quickstart_families import FAMILIES, LEVELS
from mathsft.records import Problem

HELD_OUT_SHARE = 0.25
"""A problem whose pool_position is below this is held out: meant to evaluate on, and never in the pre-training corpus."""


def generate(num_train: int, num_heldout: int) -> list[Problem]:
    """Return exactly so many problems to train on, then so many held-out ones: all distinct, the same everywhere."""
    rng = random.Random("quickstart")
    train: dict[str, Problem] = {}
    heldout: dict[str, Problem] = {}
    # The higher levels know many millions of texts, so that both kinds always fill up.
    while len(train) < num_train or len(heldout) < num_heldout:
        problem = draw_problem(rng)
        kind, num_wanted = (heldout, num_heldout) if is_held_out(problem) else (train, num_train)
        if len(kind) < num_wanted:
            kind.setdefault(problem.problem, problem)
    return [*train.values(), *heldout.values()]


def is_held_out(problem: Problem) -> bool:
    """Tell whether the problem is kept for evaluation."""
    return pool_position(problem.problem) < HELD_OUT_SHARE


def draw_problem(rng: random.Random, levels: Sequence[int] = LEVELS) -> Problem:
    """Return one problem of a random family and of one of the levels; the same text may be drawn again."""
    family, level = rng.choice(FAMILIES), rng.choice(levels)
    sketch = family(rng, level)
    return Problem(
        id=hashlib.sha256(sketch.problem.encode()).hexdigest()[:12],
        problem=sketch.problem,
        solution=sketch.solution,
        answer=sketch.answer,
        level=level,
        subject=sketch.subject,
    )


def base_model_folder() -> Path:
    """Return the folder of the embedded base model, in Hugging Face's layout (made by tools/make_base.py)."""
    return Path(__file__).parent / "assets" / "quickstart"
