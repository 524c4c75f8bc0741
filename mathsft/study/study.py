"""A study from its baseline to its promotion."""

from asyncio import TaskGroup
from pathlib import Path

from mathsft.config.schema import RunSettings, StudyConfig
from mathsft.errors import StudyFailedError
from mathsft.records import Plan, Promotion, Run
from mathsft.runs.contest import Rule
from mathsft.runs.crew import Crew
from mathsft.runs.engine_check import check_engine
from mathsft.runs.execute import drive, scored
from mathsft.runs.final import One
from mathsft.runs.horizon import are_over, horizon_runs, run_horizon
from mathsft.runs.results import SEARCH_POOL, recorded_results
from mathsft.runs.retention import delete_weights
from mathsft.seeds import derive_seed
from mathsft.store.book import Book
from mathsft.study.decide import Confirm, decide
from mathsft.study.search import Search
from mathsft.workers.worker import Failed, RemoteError

BASELINE = "baseline"


def trial_plan(settings: RunSettings, max_unscored: int) -> Plan:
    """Return the plan that all trials share."""
    return Plan(settings.num_examples, settings.eval_points, SEARCH_POOL, max_unscored, keep="last")


def baseline_run(config: StudyConfig) -> Run:
    """Return the run that trains nothing: its only checkpoint is the base model."""
    plan = Plan(num_examples=0, eval_points=(0.0,), pool=SEARCH_POOL, max_unscored=1, keep="last")
    return Run(BASELINE, {}, plan, derive_seed(config.seed, BASELINE))


def is_over(config: StudyConfig, search: Search, book: Book, rule: Rule) -> bool:
    """Tell whether baseline, trials, confirm stage and horizon are all done, so that nobody need start a worker."""
    baseline = book.run(BASELINE)
    if baseline is None or baseline.state != "finished" or not search.done():
        return False
    decision = decide(recorded_results(book), rule)
    return not isinstance(decision, Confirm) and are_over(_horizon_runs(config, decision), book)


async def run_study(config: StudyConfig, rule: Rule, search: Search, crew: Crew, book: Book) -> None:
    """Check the engine, score the base model, run the trials, confirm the best and look at the horizon.

    Raises StudyFailedError when workers fail again and again.
    """
    async with TaskGroup() as work:
        work.create_task(check_engine(crew, book))  # first of all: it takes the evaluator before anybody scores
        work.create_task(drive(One(baseline_run(config), book), crew, book))
        work.create_task(drive(search, crew, book))
    promotion = await confirm(rule, crew, book)
    await run_horizon(_horizon_runs(config, promotion), crew, book)


def _horizon_runs(config: StudyConfig, promotion: Promotion | None) -> list[Run]:
    if promotion is None:
        return []
    return horizon_runs(config.horizon, config.trial, promotion.overrides, config.seed)


async def confirm(rule: Rule, crew: Crew, book: Book) -> Promotion | None:
    """Score finalists on fresh problems until the rule knows who won, and return that; nothing is scored again."""
    while isinstance(wanted := decide(recorded_results(book), rule), Confirm):
        try:
            async with TaskGroup() as scoring:
                for name in wanted.trials:
                    scoring.create_task(_confirm(name, wanted.pool, crew, book))
        except* (Failed, RemoteError) as errors:
            raise StudyFailedError(f"a finalist could not be scored on {wanted.pool}: {errors.exceptions[0]}") from errors
    return wanted


async def _confirm(name: str, pool: str, crew: Crew, book: Book) -> None:
    trial = book.run(name)
    assert trial is not None
    await scored(trial, book.checkpoints(name)[-1], pool, crew, book)


def promote(rule: Rule, book: Book, study_dir: Path) -> Promotion | None:
    """Record who won, None where no trial was trained to its end; the losers' weights go."""
    promotion = decide(recorded_results(book), rule)
    assert not isinstance(promotion, Confirm)  # `confirm` came to its end
    if promotion is not None:
        book.write(promotion)
        delete_weights(book, study_dir)
    return promotion
