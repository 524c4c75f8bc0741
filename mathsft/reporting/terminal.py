"""Builds the tables that a command prints at its end, from the store."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from mathsft import formats
from mathsft.accounting.ledger import Ledger
from mathsft.objective import accuracy_interval
from mathsft.records import Promotion, Run, Score
from mathsft.reporting import markdown
from mathsft.runs.retention import best_step
from mathsft.statistics.intervals import Interval
from mathsft.store.study_store import StudyStore

NUM_SHOWN_TRIALS = 8


def study_table(store: StudyStore, num_shown: int = NUM_SHOWN_TRIALS) -> Table:
    """Return the num_shown best trials and the baseline, with their last scores on the search pool and 95 % intervals."""
    trials, promotion = store.runs("trial"), store.promotion()
    names = sorted({name for trial in trials for name in trial.overrides})
    states = [trial.state for trial in trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    headers = ("trial", *(name.removeprefix("training.") for name in names), "accuracy", "95 % interval", "format", "")
    table = plain_table(f"Study {store.study}, {len(trials)} trials ({counted})", headers, left=("trial",))
    ranked = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: -(trial.value or 0.0))
    for trial in ranked[:num_shown]:
        is_promoted = promotion is not None and promotion.run == trial.name
        cells = [*(_value(trial, name) for name in names), *_last_score(store, trial)]
        table.add_row(trial.name, *cells, "promoted" if is_promoted else "")
    if len(ranked) > num_shown:
        table.add_row("…")
    if (baseline := store.run("baseline")) is not None:
        table.add_row("baseline", *("" for _ in names), *_last_score(store, baseline))
    return table


def ledger_table(ledger: Ledger) -> Table:
    """Return the cost of the study so far, by worker and activity."""
    gain = ledger.points_per_device_hour
    per_hour = "" if gain is None else f"; {gain:+.1f} points of accuracy per device-hour"
    title = f"Cost: {markdown.device_hours(ledger)}{per_hour}"
    table = plain_table(title, ("worker", "activity", "time", "share"), left=("worker", "activity"))
    for account in ledger.worker_times:
        for activity, seconds in account.seconds.items():
            share = seconds / account.held_seconds if account.held_seconds else 0.0
            table.add_row(account.worker, activity, formats.seconds(seconds), markdown.percent(share))
    return table


def finalists_table(promotion: Promotion) -> Table:
    """Return the shortlisted trials with their scores on the search pool and on the fresh problems of the confirm stage."""
    headers = ("trial", "search", "smoothed", "confirm", "accuracy", "95 % interval", "")
    table = plain_table("Shortlist, with the scores on fresh problems (confirm)", headers, left=("trial",))
    for finalist in promotion.finalists:
        confirmed = ("", "", "")
        if finalist.low is not None and finalist.high is not None:
            counts = f"{finalist.num_correct} of {finalist.num_responses}"
            accuracy = markdown.percent(finalist.num_correct / finalist.num_responses)
            confirmed = (counts, accuracy, markdown.bounds(Interval(finalist.low, finalist.high)))
        searched = (markdown.percent(finalist.search_accuracy), markdown.percent(finalist.smoothed_accuracy))
        table.add_row(finalist.run, *searched, *confirmed, "promoted" if finalist.run == promotion.run else "")
    return table


def progression_table(store: StudyStore, run: Run) -> Table:
    """Return the scores of the promoted trial and of a final run on the validation and test pools, by step."""
    settings = ", ".join(f"{name.removeprefix('training.')} {_value(run, name)}" for name in sorted(run.overrides))
    headers = ("run", "pool", "problems", "step", "accuracy", "95 % interval", "format", "wrong answer", "")
    table = plain_table(f"{run.name}: {settings or 'the settings of the experiment'}", headers, left=("run", "pool"))
    promotion = store.promotion()
    trial_scores = store.scores(promotion.run, "validation") if promotion else []
    validated = store.scores(run.name, "validation")
    marks = {best_step(validated): "best", validated[-1].step: "last"} if validated else {}
    if len(marks) == 1 and len(validated) > 1:
        marks = dict.fromkeys(marks, "best, last")
    for score in [*trial_scores, *validated, *store.scores(run.name, "test")]:
        wrong = f"{score.counts['wrong_answer'] / sum(score.counts.values()):.1%}"
        mark = marks.get(score.step, "") if score.run == run.name else ""
        table.add_row(score.run, score.pool, str(score.num_problems), str(score.step), *_cells(score), wrong, mark)
    return table


def plain_table(title: str, headers: Sequence[str], left: Sequence[str] = ()) -> Table:
    """Return an empty table whose columns named in `left` are left-aligned, the others right-aligned."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for header in headers:
        table.add_column(header, justify="left" if header in left else "right", no_wrap=True)
    return table


def _last_score(store: StudyStore, run: Run) -> tuple[str, str, str]:
    if run.state == "diverged":
        return "0.0%", "diverged", ""
    scores = store.scores(run.name, run.plan.pool)
    return _cells(scores[-1]) if scores else ("", "", "")


def _cells(score: Score) -> tuple[str, str, str]:
    return (
        markdown.percent(score.accuracy),
        markdown.bounds(accuracy_interval(score)),
        markdown.percent(score.format_accuracy),
    )


def _value(run: Run, name: str) -> str:
    value = run.overrides.get(name, "")
    return f"{value:.2e}" if isinstance(value, float) else str(value)
