"""Decides from the records which checkpoints may be deleted; one that is needed later is trained again."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from mathsft.layout import StudyLayout
from mathsft.records import STATES_WITH_RESULT, Checkpoint, Promotion, Run, Score
from mathsft.runs.pool_names import TEST_POOL
from mathsft.store.study_store import StudyStore


def deletable(
    runs: Sequence[Run], checkpoints: Sequence[Checkpoint], scores: Sequence[Score], promotion: Promotion | None
) -> list[Checkpoint]:
    """Return the checkpoints whose weights are not needed any more. These are needed:

    - checkpoints that have no score on their run's pool, and the last checkpoint of a running run;
    - a trial's last checkpoint until the promotion is recorded, and the promoted trial's permanently;
    - a final run's best, last and every keep_every-th checkpoint, and its baseline until it has a test score.
    """
    by_name = {run.name: run for run in runs}
    scored = {(score.run, score.step, score.pool) for score in scores}

    def is_needed(checkpoint: Checkpoint) -> bool:
        run = by_name[checkpoint.run]
        own_scores = [score for score in scores if score.run == run.name and score.pool == run.plan.pool]
        is_last = checkpoint.step == max(other.step for other in checkpoints if other.run == run.name)
        if (run.name, checkpoint.step, run.plan.pool) not in scored or (is_last and run.state == "running"):
            return True
        if run.plan.keep == "last":
            return is_last and run.kind == "trial" and (promotion is None or promotion.run == run.name)
        if checkpoint.step == 0:
            return (run.name, 0, TEST_POOL) not in scored
        # The first eval point is the baseline. Checkpoints do not count: one that was lost may be recorded after later ones.
        every = run.plan.keep_every
        is_kept = every is not None and checkpoint.step in run.eval_steps[::every]
        return is_last or is_kept or checkpoint.step == best_step(own_scores)

    return [checkpoint for checkpoint in checkpoints if not is_needed(checkpoint)]


def best_step(scores: Sequence[Score]) -> int:
    """Return the step with the highest accuracy, the earliest in a tie."""
    return min(scores, key=lambda score: (-score.accuracy, score.step)).step


def unneeded_weights(runs: Sequence[Run], store: StudyStore, layout: StudyLayout) -> list[Path]:
    """Return the folders of the weights that are not needed any more, given all runs of the store."""
    checkpoints = [checkpoint for run in runs for checkpoint in store.checkpoints(run.name)]
    return [layout / unneeded.path for unneeded in deletable(runs, checkpoints, store.scores(), store.promotion())]


def unneeded_states(runs: Sequence[Run], layout: StudyLayout) -> list[Path]:
    """Return the full training states of the runs that have a result."""
    return [layout.full_state(run.name) for run in runs if run.state in STATES_WITH_RESULT]


def delete_paths(paths: Iterable[Path]) -> None:
    """Delete files and folders; missing ones are ignored."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def delete_weights(store: StudyStore, layout: StudyLayout) -> None:
    """Delete the weights and the full training states that are not needed any more."""
    runs = store.runs()
    delete_paths([*unneeded_weights(runs, store, layout), *unneeded_states(runs, layout)])
