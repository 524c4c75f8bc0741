"""The final run's best checkpoint: what it was chosen by, how much the choice flatters that, and what chose nothing."""

from dataclasses import dataclass

from mathsft.objective import Objective
from mathsft.records import Run, Score
from mathsft.runs.retention import TEST_POOL, best_step
from mathsft.statistics.optimism import best_of_k
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class BestCheckpoint:
    """The most accurate checkpoint of a run on the pool that watches it."""

    run: str
    step: int
    num_checkpoints: int
    """It was chosen from these, the baseline among them."""
    validated: Score
    """By which it was chosen."""
    corrected_accuracy: float
    """That score's accuracy without the advantage of having been chosen for it, by a bootstrap over problems."""
    tested: Score | None
    """On problems that chose nothing; None before they were asked."""

    @property
    def optimism(self) -> float:
        """Return how much of the accuracy that it was chosen by is, on average, luck."""
        return self.validated.accuracy - self.corrected_accuracy


def best_checkpoint(store: StudyStore, run: Run) -> BestCheckpoint | None:
    """Return the run's best checkpoint; None where nothing can be chosen: of one scored checkpoint, or by one problem."""
    validated = store.scores(run.name, run.plan.pool)
    if len(validated) < 2 or validated[0].num_problems < 2:
        return None
    step = best_step(validated)
    chosen = next(score for score in validated if score.step == step)
    objective = Objective.of(store.settings())
    optimism = best_of_k([objective.outcomes(store.responses(score)) for score in validated], run.seed).optimism
    return BestCheckpoint(
        run=run.name,
        step=step,
        num_checkpoints=len(validated),
        validated=chosen,
        corrected_accuracy=max(0.0, chosen.accuracy - optimism),
        tested=store.score(run.name, step, TEST_POOL),
    )
