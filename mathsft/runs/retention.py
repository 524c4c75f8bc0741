"""What may be deleted: one pure function of the records. What is deleted and needed again is trained again."""

import shutil
from collections.abc import Sequence

from mathsft.layout import StudyLayout
from mathsft.records import FINISHED, Checkpoint, Promotion, Run, Score
from mathsft.store.study_store import StudyStore

TEST_POOL = "test"


def deletable(
    runs: Sequence[Run], checkpoints: Sequence[Checkpoint], scores: Sequence[Score], promotion: Promotion | None
) -> list[Checkpoint]:
    """Return the checkpoints whose weights nobody will ask for again.

    Nothing unscored; a run's last weights not while it goes on; a trial's last not before the promotion is recorded,
    the promoted one's never; of a final run its best, its last and every keep_every-th never, its baseline not before its
    test score.
    """
    by_name = {run.name: run for run in runs}
    scored = {(score.run, score.step, score.pool) for score in scores}

    def is_needed(checkpoint: Checkpoint) -> bool:
        run = by_name[checkpoint.run]
        own_steps = sorted(other.step for other in checkpoints if other.run == run.name)
        own_scores = [score for score in scores if score.run == run.name and score.pool == run.plan.pool]
        is_last = checkpoint.step == own_steps[-1]
        if (run.name, checkpoint.step, run.plan.pool) not in scored or (is_last and run.state == "running"):
            return True
        if run.plan.keep == "last":
            return is_last and run.kind == "trial" and (promotion is None or promotion.run == run.name)
        if checkpoint.step == 0:
            return (run.name, 0, TEST_POOL) not in scored
        # A final run begins with its baseline, so a step's place in the list is the number of its eval point.
        every = run.plan.keep_every
        is_kept = every is not None and own_steps.index(checkpoint.step) % every == 0
        return is_last or is_kept or checkpoint.step == best_step(own_scores)

    return [checkpoint for checkpoint in checkpoints if not is_needed(checkpoint)]


def best_step(scores: Sequence[Score]) -> int:
    """Return the step of the highest accuracy, the earliest of equals."""
    return min(scores, key=lambda score: (-score.accuracy, score.step)).step


def delete_weights(store: StudyStore, layout: StudyLayout) -> None:
    """Delete all weights, and full states of ended runs, that nobody will ask for again."""
    runs = store.runs()
    checkpoints = [checkpoint for run in runs for checkpoint in store.checkpoints(run.name)]
    for checkpoint in deletable(runs, checkpoints, store.scores(), store.promotion()):
        shutil.rmtree(layout / checkpoint.path, ignore_errors=True)
    for run in runs:
        if run.state in FINISHED:
            layout.full_state(run.name).unlink(missing_ok=True)
