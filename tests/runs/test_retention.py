"""What may be deleted, as a table of situations."""

from dataclasses import replace
from pathlib import Path

from mathsft.accounting.disk import disk_uses
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Run, Score
from mathsft.runs.retention import best_step, deletable, delete_weights
from mathsft.store.study_store import StudyStore
from tests.build import make_checkpoint, make_final, make_plan, make_promotion, make_score, make_trial

TRIAL = make_trial(plan=make_plan(64, (0.5, 1.0)))
FINAL = make_final()


def checkpoints(run: Run, *steps: int) -> list[Checkpoint]:
    return [make_checkpoint(run.name, step, f"runs/{run.name}/step-{step}") for step in steps]


def score(run: Run, step: int, num_correct: int, pool: str | None = None) -> Score:
    return make_score(run.name, step, pool or run.plan.pool, num_correct, 10)


def steps(deleted: list[Checkpoint]) -> list[int]:
    return [checkpoint.step for checkpoint in deleted]


def test_nothing_unscored_goes() -> None:
    assert deletable([TRIAL], checkpoints(TRIAL, 4, 8), [], None) == []


def test_a_running_trial_keeps_its_last_and_drops_what_is_scored() -> None:
    scores = [score(TRIAL, 4, 1), score(TRIAL, 8, 2)]
    assert steps(deletable([TRIAL], checkpoints(TRIAL, 4, 8), scores, None)) == [4]


def test_a_trials_last_weights_wait_for_the_promotion_and_the_winners_stay() -> None:
    done = replace(TRIAL, state="finished")
    loser = replace(done, name="trial-1")
    scores = [score(run, step, 1) for run in (done, loser) for step in (4, 8)]
    both = checkpoints(done, 4, 8) + checkpoints(loser, 4, 8)
    assert steps(deletable([done, loser], both, scores, None)) == [4, 4]
    promotion = make_promotion("trial-0")
    deleted = deletable([done, loser], both, scores, promotion)
    assert [(c.run, c.step) for c in deleted] == [("trial-0", 4), ("trial-1", 4), ("trial-1", 8)]


def test_a_final_run_keeps_best_and_last_and_its_baseline_until_it_is_tested() -> None:
    scores = [score(FINAL, 0, 1), score(FINAL, 4, 8), score(FINAL, 6, 3), score(FINAL, 8, 5)]
    done = replace(FINAL, state="finished")
    assert steps(deletable([FINAL], checkpoints(FINAL, 0, 4, 6, 8), scores, None)) == [6]
    scores.append(score(FINAL, 0, 1, pool="test"))
    assert steps(deletable([done], checkpoints(FINAL, 0, 4, 6, 8), scores, None)) == [0, 6]


def test_a_final_run_keeps_every_so_many_eval_points_the_baseline_not_counted() -> None:
    eighths = make_plan(128, tuple(point / 8 for point in range(9)), "validation", keep="best_and_last", keep_every=2)
    every_second = make_final(plan=eighths, state="finished")
    assert every_second.eval_steps == tuple(range(9))
    scores = [score(FINAL, step, 9 if step == 1 else 5) for step in range(8)] + [score(FINAL, 0, 1, pool="test")]
    published = checkpoints(FINAL, *reversed(range(8)))
    kept = {0, 1, 2, 3, 4, 5, 6, 7} - set(steps(deletable([every_second], published, scores, None)))
    assert kept == {1, 2, 4, 6, 7}
    is_missing = [checkpoint for checkpoint in published if checkpoint.step != 2]  # until it is trained again
    assert {4, 6}.isdisjoint(steps(deletable([every_second], is_missing, scores, None)))


def test_what_the_setting_keeps_is_shown_and_not_to_be_freed(store: StudyStore, tmp_path: Path) -> None:
    quarters = make_plan(128, (0.0, 0.25, 0.5, 0.75, 1.0), "validation", keep="best_and_last", keep_every=2)
    run = make_final(plan=quarters, state="finished")
    store.write(run)
    for checkpoint in checkpoints(run, 0, 2, 4, 6, 8):
        store.write(checkpoint)
        store.write(score(run, checkpoint.step, 9 if checkpoint.step == 8 else 5))
        folder = tmp_path / checkpoint.path
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"1234")
    store.write(score(run, 0, 1, pool="test"))
    found = [
        (holding.kind, holding.num_bytes, holding.free)
        for holding in disk_uses(store, StudyLayout(tmp_path))
        if "weights" in holding.kind
    ]
    assert found == [
        ("weights", 12, "scored, and no longer needed"),
        ("weights that final.keep_every keeps", 4, ""),
        ("weights", 4, ""),
    ]


def test_the_best_step_is_the_earliest_of_equals() -> None:
    assert best_step([score(FINAL, 8, 5), score(FINAL, 4, 5), score(FINAL, 0, 1)]) == 4


def test_full_states_stay_while_a_run_may_go_on(store: StudyStore, tmp_path: Path) -> None:
    for number, state in enumerate(("running", "failed", "finished", "pruned", "diverged")):
        run = replace(TRIAL, name=f"trial-{number}", state=state)
        store.write(run)
        run_dir = tmp_path / "runs" / run.name
        run_dir.mkdir(parents=True)
        (run_dir / "full-state.safetensors").write_bytes(b"state")
    delete_weights(store, StudyLayout(tmp_path))
    assert sorted(path.parent.name for path in tmp_path.glob("runs/*/*")) == ["trial-0", "trial-1"]
