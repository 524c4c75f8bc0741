"""Draws the report's figures of a final run's accuracy by level and by subject, beside the base model's."""

from collections.abc import Mapping

from mathsft.objective import Objective, Share
from mathsft.records import Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import analyse, base_and_best
from mathsft.reporting.figures import BLUE, GREY
from mathsft.reporting.svg import Axis, Chart
from mathsft.store.study_store import StudyStore

MOST_GROUPS = 12
"""More subjects than this do not fit into a figure: the largest are drawn."""
MOST_CHARACTERS = 22
"""A longer name of a subject is shortened."""


def accuracy_by_group(store: StudyStore, run: Run) -> dict[str, Chart]:
    """Return a chart of the accuracy by "level" and by "subject", for those that the data set has.

    The pool is test if base model and best checkpoint have test scores, else the run's own pool.
    """
    scores, objective, problems = base_and_best(store, run), Objective.of(store.settings()), store.problems()
    if scores is None:
        return {}
    base, last = (analyse(score, store.responses(score), problems, None, objective) for score in scores)
    charts = {"level": (base.by_level, last.by_level), "subject": (base.by_subject, last.by_subject)}
    return {
        kind: _chart(f"{run.name}: accuracy by {kind}", kind, before, after, last.step, last.pool)
        for kind, (before, after) in charts.items()
        if len(after) > 1 and before.keys() == after.keys()
    }


def _chart(title: str, kind: str, before: Mapping[str, Share], after: Mapping[str, Share], step: int, pool: str) -> Chart:
    names = sorted(sorted(after, key=lambda name: -after[name].of)[:MOST_GROUPS], reverse=True)
    shown = [name if len(name) <= MOST_CHARACTERS else name[: MOST_CHARACTERS - 1] + "…" for name in names]
    top = min(1.0, 1.08 * max(share.interval.high for group in (before, after) for share in group.values()))
    chart = Chart(
        title,
        Axis("accuracy", 0.0, top, form="{:.0%}".format),
        Axis.of_names(kind, shown),
        f"on the problems of the pool {pool}, with 95 % intervals",
    )
    for label, group, color, offset in (("base model", before, GREY, -0.16), (f"step {step}", after, BLUE, 0.16)):
        for place, name in enumerate(names):
            found = group[name]
            note = f"{name}, {label}: {markdown.share(found)} of {found.of:,} responses"
            chart.interval(place + offset, found.interval.low, found.interval.high, color, is_across=True)
            chart.mark(found.share, place + offset, color, note, label="" if place else label)
    least, most = (choose(names, key=lambda name: after[name].share) for choose in (min, max))
    chart.caption = (
        f"The fine-tuned model is best at {kind} {most}: {markdown.share(after[most])}. It is worst at {kind} {least}: "
        f"{markdown.share(after[least])}. The more problems a {kind} has, the shorter is its interval."
    )
    return chart
