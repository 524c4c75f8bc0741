"""Finds the final run's best checkpoint and corrects its validation accuracy for the selection."""

from dataclasses import dataclass

from mathsft.objective import Objective
from mathsft.records import Run, Score
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.statistics.optimism import best_of_k
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint of a run that has the highest accuracy on the run's own pool."""

    run: str
    step: int
    num_checkpoints: int
    """Checkpoints that it was chosen from, the baseline included."""
    validated: Score
    """Its score on the run's own pool, by which it was chosen."""
    corrected_accuracy: float
    """The accuracy of `validated` minus the optimism of choosing the best of several (bootstrap over problems)."""
    tested: Score | None
    """Its score on the test pool; None before it is scored there."""

    @property
    def optimism(self) -> float:
        """Return by how much the selection raises the validation accuracy on average."""
        return self.validated.accuracy - self.corrected_accuracy


def best_checkpoint(store: StudyStore, run: Run) -> BestCheckpoint | None:
    """Return the run's best checkpoint; None if fewer than two checkpoints are scored, or on fewer than two problems."""
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
