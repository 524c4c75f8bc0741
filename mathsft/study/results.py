"""Reads out of the book what the rule decides on: each trial's outcomes, problem by problem."""

from statistics import fmean

from mathsft.objective import Objective
from mathsft.records import Run
from mathsft.store.book import Book
from mathsft.study.decide import SEARCH_POOL, TrialResult


def recorded_results(book: Book) -> list[TrialResult]:
    """Return what every trial's last checkpoint reached on each pool that scored it."""
    objective = Objective.of(book.settings())
    return [_recorded_result(run, book, objective) for run in book.runs("trial")]


def _recorded_result(run: Run, book: Book, objective: Objective) -> TrialResult:
    scores = book.scores(run.name)
    last_step = max((score.step for score in scores), default=0)
    responses = {score.pool: book.responses(score) for score in scores if score.step == last_step}
    nlls = [response.gold_nll for response in responses.get(SEARCH_POOL, []) if response.gold_nll is not None]
    outcomes = {pool: objective.outcomes(given) for pool, given in responses.items()}
    return TrialResult(run, outcomes, fmean(nlls) if nlls else None, objective.num_samples)
