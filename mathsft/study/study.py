"""A study from its baseline to its promotion."""

from asyncio import TaskGroup
from pathlib import Path

from mathsft.config.schema import RunSettings, StudyConfig
from mathsft.errors import StudyFailedError
from mathsft.records import Plan, Promotion, Run
from mathsft.runs.crew import Crew
from mathsft.runs.execute import drive, scored
from mathsft.runs.final import One
from mathsft.runs.retention import delete_weights
from mathsft.seeds import derive_seed
from mathsft.store.book import Book
from mathsft.study.decide import SEARCH_POOL, Confirm, Rule, decide
from mathsft.study.results import recorded_results
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


def is_over(search: Search, book: Book, rule: Rule) -> bool:
    """Tell whether baseline, trials and confirm stage are all done, so that nobody need start a worker."""
    baseline = book.run(BASELINE)
    if baseline is None or baseline.state != "finished" or not search.done():
        return False
    return not isinstance(decide(recorded_results(book), rule), Confirm)


async def run_study(config: StudyConfig, rule: Rule, search: Search, crew: Crew, book: Book) -> None:
    """Score the base model, run the trials and confirm the best; StudyFailedError when workers fail again and again."""
    async with TaskGroup() as work:
        work.create_task(drive(One(baseline_run(config), book), crew, book))
        work.create_task(drive(search, crew, book))
    await confirm(rule, crew, book)


async def confirm(rule: Rule, crew: Crew, book: Book) -> None:
    """Score finalists on fresh problems until the rule knows who won; what the book has is not scored again."""
    while isinstance(wanted := decide(recorded_results(book), rule), Confirm):
        try:
            async with TaskGroup() as scoring:
                for name in wanted.trials:
                    scoring.create_task(_confirm(name, wanted.pool, crew, book))
        except* (Failed, RemoteError) as errors:
            raise StudyFailedError(f"a finalist could not be scored on {wanted.pool}: {errors.exceptions[0]}") from errors


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
