"""The report's section on what responses are like, base model against final: lengths, entropy, and who solves what."""

from collections.abc import Sequence

from mathsft.records import Response, Run
from mathsft.reporting import text
from mathsft.reporting.analysis import Count, analyse
from mathsft.runs.retention import TEST_POOL, best_step
from mathsft.statistics.intervals import wilson
from mathsft.store.book import Book

MEANING = "In brackets: Student's 95 % interval of a mean over problems, Wilson's of a share."


def characteristics_section(book: Book, run: Run) -> str:
    """Return the base model's and the best checkpoint's responses side by side; empty before both are scored on a pool.

    The pool is test where both are scored there, else the run's own.
    """
    watched = book.scores(run.name, run.plan.pool)
    steps = (0, best_step(watched)) if watched else (0, 0)
    for pool in (TEST_POOL, run.plan.pool):
        found = [score for step in steps if (score := book.score(run.name, step, pool)) is not None]
        if steps[1] and len(found) == 2:
            break
    else:
        return ""
    responses, problems = [book.responses(score) for score in found], book.problems()
    before, after = (analyse(*given, problems, None) for given in zip(found, responses, strict=True))
    headers = (f"pool {pool}", "base model", f"step {steps[1]}")
    rows = [
        ("mean tokens", *(_mean([one.num_tokens for one in given]) for given in responses)),
        ("… of correct responses", *(_mean(_tokens(given, correct=True)) for given in responses)),
        ("… of the others", *(_mean(_tokens(given, correct=False)) for given in responses)),
        ("cut at the limit", *(_share(Count(one.num_cut, len(responses[0]))) for one in (before, after))),
        ("token entropy, nats", *(_mean([one.entropy for one in given if one.entropy is not None]) for given in responses)),
        ("gold NLL, nats", *(_mean([one.gold_nll for one in given if one.gold_nll is not None]) for given in responses)),
    ]
    for name in sorted({*before.reasons, *after.reasons}):
        counts = [Count(one.reasons.get(name, 0), len(responses[0])) for one in (before, after)]
        rows.append((text.cell(name), *map(_share, counts)))
    parts = ["### What the responses are like", text.table(headers, rows), MEANING]
    for title, old, new in (
        ("subject", before.by_subject, after.by_subject),
        ("level", before.by_level, after.by_level),
    ):
        if old.keys() == new.keys() and old:
            solved = [(text.cell(name), _share(old[name]), _share(new[name])) for name in old]
            parts.append(text.table((f"solved, by {title}", "base model", f"step {steps[1]}"), solved))
    return "\n\n".join(parts)


def _tokens(responses: Sequence[Response], *, correct: bool) -> list[int]:
    return [one.num_tokens for one in responses if (one.verdict.category == "correct") == correct]


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


def _share(count: Count) -> str:
    interval = wilson(count.num, count.of)
    return f"{text.percent(count.share)} ({text.percent(interval.low)} – {text.percent(interval.high)})"
