"""A study from its baseline to its promotion."""

from asyncio import TaskGroup
from pathlib import Path

from mathsft.config.schema import RunSettings, StudyConfig
from mathsft.records import Plan, Promotion, Run
from mathsft.runs.crew import Crew
from mathsft.runs.execute import drive
from mathsft.runs.final import One
from mathsft.runs.retention import delete_weights
from mathsft.seeds import derive_seed
from mathsft.store.book import Book
from mathsft.study.decide import decide
from mathsft.study.search import TRIAL_PREFIX, Search

SEARCH_POOL = "search"
BASELINE = "baseline"


def trial_plan(settings: RunSettings, max_unscored: int) -> Plan:
    """Return the plan that all trials share."""
    return Plan(settings.num_examples, settings.eval_points, SEARCH_POOL, max_unscored, keep="last")


def baseline_run(config: StudyConfig) -> Run:
    """Return the run that trains nothing: its only checkpoint is the base model."""
    plan = Plan(num_examples=0, eval_points=(0.0,), pool=SEARCH_POOL, max_unscored=1, keep="last")
    return Run(BASELINE, {}, plan, derive_seed(config.seed, BASELINE))


def is_over(search: Search, book: Book) -> bool:
    """Tell whether baseline and trials are all done, so that nobody need start a worker."""
    baseline = book.run(BASELINE)
    return baseline is not None and baseline.state == "finished" and search.done()


async def run_study(config: StudyConfig, search: Search, crew: Crew, book: Book) -> None:
    """Score the base model and run the trials; raises StudyFailedError when the first trials all fail."""
    async with TaskGroup() as work:
        work.create_task(drive(One(baseline_run(config), book), crew, book))
        work.create_task(drive(search, crew, book))


def promote(book: Book, study_dir: Path) -> Promotion | None:
    """Decide who won and record it, None where no trial was trained to its end; losers' weights go."""
    promotion = decide(book.runs(TRIAL_PREFIX))
    if promotion is not None:
        book.write(promotion)
        delete_weights(book, study_dir)
    return promotion
