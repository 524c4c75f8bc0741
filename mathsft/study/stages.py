"""Runs the stages of a study: baseline, trials, confirm stage, horizon runs and promotion."""

from asyncio import TaskGroup

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import RunSettings, StudyConfig
from mathsft.errors import StudyFailedError
from mathsft.layout import StudyLayout
from mathsft.records import Plan, Promotion, Run
from mathsft.runs.contest import Rule
from mathsft.runs.context import StudyContext
from mathsft.runs.engine_check import check_engine
from mathsft.runs.execute import drive, score_last
from mathsft.runs.final_run import SingleRun
from mathsft.runs.horizon_runs import are_over, horizon_runs, run_horizon
from mathsft.runs.new_run import new_run
from mathsft.runs.pool_names import SEARCH_POOL
from mathsft.runs.results import recorded_results
from mathsft.runs.retention import delete_weights
from mathsft.seeds import derive_seed
from mathsft.store.study_store import StudyStore
from mathsft.study.decide import Confirm, decide
from mathsft.study.search import Search
from mathsft.workers.worker import Failed, RemoteError


def trial_plan(settings: RunSettings, max_unscored: int) -> Plan:
    """Return the plan that all trials share."""
    return Plan(settings.num_examples, settings.eval_points, SEARCH_POOL, max_unscored, keep="last")


def baseline_run(config: StudyConfig, experiment: Experiment) -> Run:
    """Return the run without training: its only checkpoint is the base model."""
    plan = Plan(num_examples=0, eval_points=(0.0,), pool=SEARCH_POOL, max_unscored=1, keep="last")
    seed = derive_seed(config.seed, "baseline")
    return new_run("baseline", "baseline", experiment=experiment, overrides={}, plan=plan, seed=seed)


def is_over(config: StudyConfig, experiment: Experiment, search: Search, store: StudyStore, rule: Rule) -> bool:
    """Return whether baseline, trials, confirm stage and horizon runs are all done, so that no worker has to start."""
    if not any(run.state == "finished" for run in store.runs("baseline")) or not search.done():
        return False
    decision = decide(recorded_results(store), rule)
    return not isinstance(decision, Confirm) and are_over(_horizon_runs(config, experiment, decision), store)


async def run_study(config: StudyConfig, rule: Rule, search: Search, study: StudyContext) -> None:
    """Check the engine, score the base model, run the trials, confirm the best, and execute the horizon runs.

    Raises StudyFailedError when workers fail repeatedly.
    """
    async with TaskGroup() as work:
        work.create_task(check_engine(study))  # first: it takes the evaluators before anything is scored
        work.create_task(drive(SingleRun(baseline_run(config, study.experiment), study.store), study))
        work.create_task(drive(search, study))
    promotion = await confirm(rule, study)
    await run_horizon(_horizon_runs(config, study.experiment, promotion), study)


def _horizon_runs(config: StudyConfig, experiment: Experiment, promotion: Promotion | None) -> list[Run]:
    if promotion is None:
        return []
    return horizon_runs(config.horizon, config.trial, experiment, promotion.overrides, config.seed)


async def confirm(rule: Rule, study: StudyContext) -> Promotion | None:
    """Score finalists on fresh problems until the rule has decided, and return the promotion; recorded scores are reused."""
    while isinstance(wanted := decide(recorded_results(study.store), rule), Confirm):
        try:
            async with TaskGroup() as scoring:
                for name in wanted.trials:
                    scoring.create_task(score_last(name, wanted.pool, study))
        except* (Failed, RemoteError) as errors:
            raise StudyFailedError(f"a finalist could not be scored on {wanted.pool}: {errors.exceptions[0]}") from errors
    return wanted


def promote(rule: Rule, store: StudyStore, layout: StudyLayout) -> Promotion | None:
    """Record the promotion and delete the other trials' weights; return None if no trial was trained to its end."""
    promotion = decide(recorded_results(store), rule)
    assert not isinstance(promotion, Confirm)  # `confirm` has scored all finalists
    if promotion is not None:
        store.write(promotion)
        delete_weights(store, layout)
    return promotion
