"""The report's section on what responses are like, base model against final: lengths, entropy, and who solves what."""

from collections.abc import Sequence

from mathsft.objective import Objective, Share
from mathsft.records import Response, Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import analyse
from mathsft.runs.retention import TEST_POOL, best_step
from mathsft.store.study_store import StudyStore

MEANING = "In brackets: Student's 95 % interval of a mean over problems, Wilson's of a share."


def characteristics_section(store: StudyStore, run: Run) -> str:
    """Return the base model's and the best checkpoint's responses side by side; empty before both are scored on a pool.

    The pool is test where both are scored there, else the run's own.
    """
    validated = store.scores(run.name, run.plan.pool)
    steps = (0, best_step(validated)) if validated else (0, 0)
    for pool in (TEST_POOL, run.plan.pool):
        found = [score for step in steps if (score := store.score(run.name, step, pool)) is not None]
        if steps[1] and len(found) == 2:
            break
    else:
        return ""
    responses, problems = [store.responses(score) for score in found], store.problems()
    objective = Objective.of(store.settings())
    before, after = (analyse(*given, problems, None, objective) for given in zip(found, responses, strict=True))
    headers = (f"pool {pool}", "base model", f"step {steps[1]}")
    rows = [
        ("mean tokens", *(_mean([one.num_tokens for one in given]) for given in responses)),
        ("… of correct responses", *(_mean(_tokens(given, objective, correct=True)) for given in responses)),
        ("… of the others", *(_mean(_tokens(given, objective, correct=False)) for given in responses)),
        ("cut at the limit", *(markdown.share(objective.share(given, is_cut)) for given in responses)),
        ("token entropy, nats", *(_mean([one.entropy for one in given if one.entropy is not None]) for given in responses)),
        ("gold NLL, nats", *(_mean([one.gold_nll for one in given if one.gold_nll is not None]) for given in responses)),
    ]
    for name in sorted({*before.reasons, *after.reasons}):
        rows.append((markdown.cell(name), *(markdown.share(_share_failing(name, given, objective)) for given in responses)))
    parts = ["### What the responses are like", markdown.table(headers, rows), MEANING]
    for title, old, new in (
        ("subject", before.by_subject, after.by_subject),
        ("level", before.by_level, after.by_level),
    ):
        if old.keys() == new.keys() and old:
            solved = [(markdown.cell(name), markdown.share(old[name]), markdown.share(new[name])) for name in old]
            parts.append(markdown.table((f"solved, by {title}", "base model", f"step {steps[1]}"), solved))
    return "\n\n".join(parts)


def is_cut(response: Response) -> bool:
    """Tell whether a response reached the limit of tokens."""
    return response.finish_reason == "length"


def _share_failing(reason: str, responses: Sequence[Response], objective: Objective) -> Share:
    return objective.share(responses, lambda response: objective.reason(response) == reason)


def _tokens(responses: Sequence[Response], objective: Objective, *, correct: bool) -> list[int]:
    return [one.num_tokens for one in responses if objective.is_correct(one) == correct]


def _mean(values: Sequence[float]) -> str:
    """Return "144.9 (140.2 – 149.6)", without the interval where there is one value, a dash where there is none."""
    from statsmodels.stats.weightstats import DescrStatsW

    if not values:
        return "–"
    found = DescrStatsW(values)
    if len(values) == 1:
        return f"{found.mean:.2f}"
    low, high = found.tconfint_mean()
    return f"{found.mean:.2f} ({low:.2f} – {high:.2f})"
