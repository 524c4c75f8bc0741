"""A study from its baseline to its promotion."""

from asyncio import TaskGroup
from pathlib import Path
from statistics import fmean

from mathsft.config.schema import RunSettings, StudyConfig
from mathsft.records import Plan, Promotion, Run
from mathsft.runs.crew import Crew
from mathsft.runs.execute import drive
from mathsft.runs.final import One
from mathsft.runs.retention import delete_weights
from mathsft.seeds import derive_seed
from mathsft.store.book import Book
from mathsft.study.decide import SEARCH_POOL, Confirm, Rule, TrialResult, decide
from mathsft.study.search import TRIAL_PREFIX, Search

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


def promote(config: StudyConfig, book: Book, study_dir: Path) -> Promotion | None:
    """Decide who won on the search pool and record it, None where no trial was trained to its end; losers' weights go."""
    search_alone = config.selection.model_copy(update={"round_trials": (), "round_problems": ()})
    promotion = decide(recorded_results(book), Rule(config.search, search_alone, num_confirm=0, seed=config.seed))
    assert not isinstance(promotion, Confirm)  # there are no rounds to ask for
    if promotion is not None:
        book.write(promotion)
        delete_weights(book, study_dir)
    return promotion


def recorded_results(book: Book) -> list[TrialResult]:
    """Return what every trial's last checkpoint reached on each pool that scored it."""
    return [_recorded_result(run, book) for run in book.runs(TRIAL_PREFIX)]


def _recorded_result(run: Run, book: Book) -> TrialResult:
    scores = book.scores(run.name)
    last_step = max((score.step for score in scores), default=0)
    responses = {score.pool: book.responses(score) for score in scores if score.step == last_step}
    nlls = [response.gold_nll for response in responses.get(SEARCH_POOL, []) if response.gold_nll is not None]
    return TrialResult(
        run,
        {pool: tuple(each.verdict.category == "correct" for each in given) for pool, given in responses.items()},
        fmean(nlls) if nlls else None,
    )
