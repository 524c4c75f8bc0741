"""The final run: a single long run from given settings, validated on one pool, reported on another."""

import hashlib
import json
from asyncio import TaskGroup
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from mathsft.config.schema import Experiment, FinalSettings
from mathsft.objective import Objective
from mathsft.records import FINISHED, Overrides, Plan, Promotion, Run, RunState, Score
from mathsft.runs.context import StudyContext
from mathsft.runs.engine_check import check_engine
from mathsft.runs.execute import drive, scored
from mathsft.runs.new_run import new_run
from mathsft.runs.retention import TEST_POOL, best_step, delete_weights
from mathsft.seeds import derive_seed
from mathsft.statistics.paired import improvement_upper_bound
from mathsft.store.study_store import StudyStore

VALIDATION_POOL = "validation"
NUM_COMPARED = 3
"""Scores whose mean is compared with that of as many before: patience over single scores follows their noise."""
LEAST_RELATIVE_GAIN = 0.1
"""Below that share of the accuracy a gain is small, whatever min_gain says of better models."""


class SingleRun:
    """A source that proposes a single run, unless the store says that it is over, and ends it where it gains too little."""

    def __init__(self, run: Run, store: StudyStore, min_gain: float | None = None) -> None:
        self._store, self._min_gain = store, min_gain
        self._gains_little = ""
        known = store.run(run.name)
        # One that goes on takes its plan as it is now: what is kept may have changed. One that failed is tried again.
        self.run = known if known is not None and known.state in FINISHED else run
        self._is_proposed = False

    def done(self) -> bool:
        return self.run.state != "running"

    async def next(self) -> Run | None:
        if self._is_proposed:
            return None
        self._is_proposed = True
        return self.run

    async def judge(self, run: Run, index: int, score: Score) -> int | None:
        if self._min_gain is not None:
            known = [other for other in self._store.scores(run.name, score.pool) if other.step <= score.step]
            self._gains_little = _gains_little(known, self._min_gain, self._store)
        return 0 if self._gains_little else None

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        if state == "pruned":
            state, reason = "finished", self._gains_little
        self.run = closed(run, state, reason, self._store)
        self._store.write(self.run)


def _gains_little(scores: Sequence[Score], min_gain: float, store: StudyStore) -> str:
    """Return in words that the latest scores, of one pool by step, hardly exceed those before; empty where they may."""
    compared = scores[-2 * NUM_COMPARED :]
    if len(compared) < 2 * NUM_COMPARED:
        return ""
    objective = Objective.of(store.settings())
    solved = [objective.outcomes(store.responses(score)) for score in compared]
    bound = improvement_upper_bound(solved[:NUM_COMPARED], solved[NUM_COMPARED:])
    if bound >= min(min_gain, LEAST_RELATIVE_GAIN * fmean(score.accuracy for score in compared[NUM_COMPARED:])):
        return ""
    return (
        f"ended early at step {compared[-1].step}: the last {NUM_COMPARED} scores are, with 95 % confidence, at most "
        f"{100 * bound:.1f} points above the {NUM_COMPARED} before"
    )


def closed(run: Run, state: RunState, reason: str, store: StudyStore) -> Run:
    """Return the run as it ended, with its last score's accuracy where it finished and 0 where it diverged."""
    value = {"finished": lambda: store.scores(run.name, run.plan.pool)[-1].accuracy, "diverged": lambda: 0.0}.get(state)
    return replace(run, state=state, reason=reason, value=value() if value else None)


def final_plan(settings: FinalSettings, max_unscored: int) -> Plan:
    """Return the final run's plan; it always begins with the baseline."""
    eval_points = tuple(sorted({0.0, *settings.eval_points}))
    return Plan(settings.num_examples, eval_points, VALIDATION_POOL, max_unscored, "best_and_last", settings.keep_every)


def final_run(experiment: Experiment, overrides: Overrides, plan: Plan, study_seed: int) -> Run:
    """Return the final run of these settings, named by them: other settings are another run."""
    seed = derive_seed(study_seed, "final")
    identity = [dict(overrides), plan.num_examples, plan.eval_points, seed]
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    return new_run("final", f"final-{digest}", experiment=experiment, overrides=overrides, plan=plan, seed=seed)


async def run_final(run: Run, promotion: Promotion | None, study: StudyContext, min_gain: float | None = None) -> Run:
    """Check the engine, execute the final run, score the promoted trial beside it, then baseline, best and last on test."""
    store, final = study.store, SingleRun(run, study.store, min_gain)
    async with TaskGroup() as work:
        if not final.done():
            work.create_task(check_engine(study))  # first of all: it takes the evaluators before anybody scores
        if promotion is not None:
            work.create_task(_score_trial(promotion, study))
        work.create_task(drive(final, study))
    if final.run.state == "finished":
        validated = store.scores(run.name, VALIDATION_POOL)
        reported = [store.checkpoint(run.name, step) for step in {0, best_step(validated), validated[-1].step}]
        for checkpoint in reported:
            if checkpoint is not None:
                await scored(final.run, checkpoint, TEST_POOL, study)
        delete_weights(store, study.layout)
    return final.run


async def _score_trial(promotion: Promotion, study: StudyContext) -> None:
    """Score the promoted trial's last weights on the validation pool: trial and final run compare on the same problems."""
    trial, checkpoints = study.store.run(promotion.run), study.store.checkpoints(promotion.run)
    if trial is not None and checkpoints:
        await scored(trial, checkpoints[-1], VALIDATION_POOL, study)
