"""Writes the report's section that compares the responses of the base model and of the best checkpoint."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from mathsft.objective import Objective
from mathsft.records import Response, Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import analyse, is_cut
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.store.study_store import StudyStore

MEANING = "In brackets: the 95 % interval, Student's for a mean over problems, Wilson's for a share."


def characteristics_section(store: StudyStore, run: Run) -> str:
    """Return the base model's and the best checkpoint's responses side by side; empty if no pool has scores of both.

    The pool is test if both have test scores, else the run's own pool.
    """
    validated = store.scores(run.name, run.plan.pool)
    best = best_step(validated) if validated else 0
    for pool in (TEST_POOL, run.plan.pool):
        scores = [score for step in (0, best) if (score := store.score(run.name, step, pool)) is not None]
        if best and len(scores) == 2:
            break
    else:
        return ""
    responses, problems = [store.responses(score) for score in scores], store.problems()
    objective = Objective.of(store.settings())
    before, after = (analyse(*pair, problems, None, objective) for pair in zip(scores, responses, strict=True))
    columns = ("base model", f"step {best}")

    def shares(label: str, is_counted: Callable[[Response], bool]) -> tuple[str, ...]:
        return label, *(markdown.share(objective.share(given, is_counted)) for given in responses)

    rows = [
        ("mean tokens", *(_mean([response.num_tokens for response in given]) for given in responses)),
        ("mean tokens, correct responses", *(_mean(_tokens(given, objective, correct=True)) for given in responses)),
        ("mean tokens, other responses", *(_mean(_tokens(given, objective, correct=False)) for given in responses)),
        shares("truncated at the limit", is_cut),
        ("token entropy, nats", *(_mean(_known(response.entropy for response in given)) for given in responses)),
        ("gold NLL, nats", *(_mean(_known(response.gold_nll for response in given)) for given in responses)),
    ]
    for name in sorted({*before.reasons, *after.reasons}):
        rows.append(shares(markdown.cell(name), partial(_has_reason, name, objective)))
    parts = ["### Properties of the responses", markdown.table((f"pool {pool}", *columns), rows), MEANING]
    for title, old, new in (("subject", before.by_subject, after.by_subject), ("level", before.by_level, after.by_level)):
        if old.keys() == new.keys() and old:
            solved = [(markdown.cell(name), markdown.share(old[name]), markdown.share(new[name])) for name in old]
            parts.append(markdown.table((f"accuracy by {title}", *columns), solved))
    return "\n\n".join(parts)


def _has_reason(reason: str, objective: Objective, response: Response) -> bool:
    return objective.reason(response) == reason


def _tokens(responses: Sequence[Response], objective: Objective, *, correct: bool) -> list[int]:
    return [response.num_tokens for response in responses if objective.is_correct(response) == correct]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> str:
    """Return "144.9 (140.2 – 149.6)": the mean and its interval; one value has no interval, and no value gives a dash."""
    from statsmodels.stats.weightstats import DescrStatsW

    if not values:
        return "–"
    statistics = DescrStatsW(values)
    if len(values) == 1:
        return f"{statistics.mean:.2f}"
    low, high = statistics.tconfint_mean()
    return f"{statistics.mean:.2f} ({low:.2f} – {high:.2f})"
