"""The final run: one long run of given settings, validated on one pool and reported on another."""

import hashlib
import json
from asyncio import TaskGroup
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import FinalSettings
from mathsft.objective import Objective
from mathsft.records import STATES_WITH_RESULT, Overrides, Plan, Promotion, Run, RunState, Score
from mathsft.runs.context import StudyContext
from mathsft.runs.engine_check import check_engine
from mathsft.runs.execute import drive, score_last, scored
from mathsft.runs.new_run import new_run
from mathsft.runs.pool_names import TEST_POOL, VALIDATION_POOL
from mathsft.runs.retention import best_step, delete_weights
from mathsft.seeds import derive_seed
from mathsft.statistics.paired import improvement_upper_bound
from mathsft.store.study_store import StudyStore

NUM_COMPARED = 3
"""Early stopping compares the mean of this many scores with the mean of as many before: single scores are too noisy."""
LEAST_RELATIVE_GAIN = 0.1
"""A gain is too small if it is below both min_gain and this share of the accuracy: weak models gain little."""


class SingleRun:
    """A source that proposes one run, unless its result is recorded, and ends it early when its accuracy hardly grows."""

    def __init__(self, run: Run, store: StudyStore, min_gain: float | None = None) -> None:
        self._store, self._min_gain = store, min_gain
        self._early_end_reason = ""
        recorded = store.run(run.name)
        # An unfinished run takes the plan as it is now, since keep_every may have changed; a failed run is tried again.
        self.run = recorded if recorded is not None and recorded.state in STATES_WITH_RESULT else run
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
            scores = [other for other in self._store.scores(run.name, score.pool) if other.step <= score.step]
            self._early_end_reason = _early_end_reason(scores, self._min_gain, self._store)
        return 0 if self._early_end_reason else None

    async def close(self, run: Run, state: RunState, reason: str) -> None:
        if state == "pruned":
            state, reason = "finished", self._early_end_reason
        self.run = closed(run, state, reason, self._store)
        self._store.write(self.run)


def _early_end_reason(scores: Sequence[Score], min_gain: float, store: StudyStore) -> str:
    """Return why the run ends early, given its scores on one pool by step; an empty text if it goes on."""
    compared = scores[-2 * NUM_COMPARED :]
    if len(compared) < 2 * NUM_COMPARED:
        return ""
    objective = Objective.of(store.settings())
    solved = [objective.outcomes(store.responses(score)) for score in compared]
    bound = improvement_upper_bound(solved[:NUM_COMPARED], solved[NUM_COMPARED:])
    if bound >= min(min_gain, LEAST_RELATIVE_GAIN * fmean(score.accuracy for score in compared[NUM_COMPARED:])):
        return ""
    return (
        f"ended early at step {compared[-1].step}: with 95 % confidence the mean of the last {NUM_COMPARED} scores is at "
        f"most {100 * bound:.1f} points above the mean of the {NUM_COMPARED} before"
    )


def closed(run: Run, state: RunState, reason: str, store: StudyStore) -> Run:
    """Return the ended run; its value is the accuracy of its last score if it finished, 0 if it diverged, else None."""
    value = {"finished": lambda: store.scores(run.name, run.plan.pool)[-1].accuracy, "diverged": lambda: 0.0}.get(state)
    return replace(run, state=state, reason=reason, value=value() if value else None)


def final_plan(settings: FinalSettings, max_unscored: int) -> Plan:
    """Return the final run's plan; its first eval point is always the baseline."""
    eval_points = tuple(sorted({0.0, *settings.eval_points}))
    return Plan(settings.num_examples, eval_points, VALIDATION_POOL, max_unscored, "best_and_last", settings.keep_every)


def final_run(experiment: Experiment, overrides: Overrides, plan: Plan, study_seed: int) -> Run:
    """Return the final run of these settings; its name holds their hash, so other settings make another run."""
    seed = derive_seed(study_seed, "final")
    identity = [dict(overrides), plan.num_examples, plan.eval_points, seed]
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    return new_run("final", f"final-{digest}", experiment=experiment, overrides=overrides, plan=plan, seed=seed)


async def run_final(run: Run, promotion: Promotion | None, study: StudyContext, min_gain: float | None = None) -> Run:
    """Check the engine, execute the final run, validate the promoted trial, then score baseline, best and last on test."""
    store, final = study.store, SingleRun(run, study.store, min_gain)
    async with TaskGroup() as work:
        if not final.done():
            work.create_task(check_engine(study))  # created first: it takes the evaluators before they score
        if promotion is not None:
            work.create_task(score_last(promotion.run, VALIDATION_POOL, study))  # to compare it with the final run
        work.create_task(drive(final, study))
    if final.run.state == "finished":
        validated = store.scores(run.name, VALIDATION_POOL)
        reported = [store.checkpoint(run.name, step) for step in {0, best_step(validated), validated[-1].step}]
        async with TaskGroup() as reporting:
            for checkpoint in reported:
                if checkpoint is not None:
                    reporting.create_task(scored(final.run, checkpoint, TEST_POOL, study))
        delete_weights(store, study.layout)
    return final.run
