"""Analyses a checkpoint's responses: categories, lengths, entropy, and the problems gained and lost since the last one."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import get_args

from mathsft.objective import Objective, Share
from mathsft.records import Category, Problem, Response, Run, Score
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.store.study_store import StudyStore

UNKNOWN = "unknown"
"""The subject or level of a problem for which the data set has none."""


@dataclass(frozen=True)
class Analysis:
    """One checkpoint on one pool; a mean of no values is None."""

    run: str
    step: int
    pool: str
    categories: dict[Category, Share]
    format_ok: Share
    strictly_correct: Share
    """Responses that are correct and also meet the strict format rule."""
    reasons: dict[str, int]
    """Responses by the reason for which they fail the format or are ungraded; each has one reason."""
    tag_flags: dict[str, int]
    """Responses by the fault of their tags; one response may have several faults."""
    mean_tokens: float
    mean_tokens_correct: float | None
    mean_tokens_incorrect: float | None
    num_cut: int
    """Responses that were truncated at the limit of tokens."""
    mean_entropy: float | None
    """Nats per generated token."""
    gold_nll: float | None
    """Nats per token of the training targets."""
    by_subject: dict[str, Share]
    """Share of correct responses by the problem's subject, as by_level; empty if the data set has no subjects."""
    by_level: dict[str, Share]
    gained: tuple[str, ...]
    """Ids of the problems that this checkpoint solves and the previous one did not."""
    lost: tuple[str, ...]
    """Ids of the problems that the previous checkpoint solved and this one does not."""


def analyse_run(store: StudyStore, run: str, pool: str) -> list[Analysis]:
    """Return the analysis of each of a run's checkpoints on a pool, in the order of their steps."""
    problems = store.problems()
    objective = Objective.of(store.settings())
    analyses, before = [], None
    for score in store.scores(run, pool):
        responses = store.responses(score)
        analyses.append(analyse(score, responses, problems, before, objective))
        before = responses
    return analyses


def base_and_best(store: StudyStore, run: Run) -> tuple[Score, Score] | None:
    """Return the base model's and the best checkpoint's scores on test, else on the run's own pool; None without both."""
    validated = store.scores(run.name, run.plan.pool)
    step = best_step(validated) if validated else 0
    for pool in (TEST_POOL, run.plan.pool):
        base, best = store.score(run.name, 0, pool), store.score(run.name, step, pool)
        if step and base is not None and best is not None:
            return base, best
    return None


def analyse(
    score: Score,
    responses: Sequence[Response],
    problems: Mapping[str, Problem],
    before: Sequence[Response] | None,
    objective: Objective,
) -> Analysis:
    """Return the analysis of a checkpoint's responses; before holds the previous checkpoint's, None if it is the first."""
    correct = [response for response in responses if objective.is_correct(response)]
    incorrect = [response for response in responses if not objective.is_correct(response)]
    solved, solved_before = solved_problems(responses, objective), solved_problems(before or (), objective)
    return Analysis(
        run=score.run,
        step=score.step,
        pool=score.pool,
        categories={category: _share_of(category, responses, objective) for category in get_args(Category)},
        format_ok=objective.share(responses, objective.is_well_formed),
        strictly_correct=objective.share(responses, lambda response: objective.is_correct(response) and response.is_strict),
        reasons=_counted(reason for response in incorrect if (reason := objective.reason(response))),
        tag_flags=_counted(flag for response in responses for flag in response.tag_flags),
        mean_tokens=fmean(response.num_tokens for response in responses),
        mean_tokens_correct=_mean(response.num_tokens for response in correct),
        mean_tokens_incorrect=_mean(response.num_tokens for response in incorrect),
        num_cut=sum(map(is_cut, responses)),
        mean_entropy=_mean(response.entropy for response in responses if response.entropy is not None),
        gold_nll=_mean(response.gold_nll for response in responses if response.gold_nll is not None),
        by_subject=_solved_by(responses, problems, lambda problem: problem.subject, objective),
        by_level=_solved_by(responses, problems, lambda problem: problem.level, objective),
        gained=tuple(sorted(solved - solved_before)) if before else (),
        lost=tuple(sorted(solved_before - solved)) if before else (),
    )


def solved_problems(responses: Iterable[Response], objective: Objective) -> set[str]:
    """Return the ids of the problems that have at least one correct response."""
    return {response.problem_id for response in responses if objective.is_correct(response)}


def is_cut(response: Response) -> bool:
    """Return whether a response was truncated at the limit of tokens."""
    return response.finish_reason == "length"


def _share_of(category: Category, responses: Sequence[Response], objective: Objective) -> Share:
    return objective.share(responses, lambda response: objective.category(response) == category)


def _solved_by(
    responses: Sequence[Response],
    problems: Mapping[str, Problem],
    attribute: Callable[[Problem], object],
    objective: Objective,
) -> dict[str, Share]:
    """Return the share of correct responses by an attribute of their problems; empty if no problem has the attribute."""

    def value_of(response: Response) -> str:
        problem = problems.get(response.problem_id)
        value = attribute(problem) if problem is not None else None
        return UNKNOWN if value is None else str(value)

    by_name: dict[str, list[Response]] = {}
    for response in responses:
        by_name.setdefault(value_of(response), []).append(response)
    if set(by_name) <= {UNKNOWN}:
        return {}
    return {name: objective.share(by_name[name]) for name in sorted(by_name)}


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None
