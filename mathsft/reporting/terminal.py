"""The tables that a command prints at its end, from the store alone."""

from rich import box
from rich.table import Table

from mathsft.accounting.ledger import Ledger
from mathsft.objective import accuracy_interval
from mathsft.records import Promotion, Run, Score
from mathsft.reporting import markdown
from mathsft.runs.retention import best_step
from mathsft.store.study_store import StudyStore

NUM_SHOWN_TRIALS = 8


def study_table(store: StudyStore, num_shown: int = NUM_SHOWN_TRIALS) -> Table:
    """Return the best trials and the baseline on the search pool, with 95 % intervals."""
    trials, promotion = store.runs("trial"), store.promotion()
    names = sorted({name for trial in trials for name in trial.overrides})
    states = [trial.state for trial in trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    table = _table(f"Study {store.study}, {len(trials)} trials ({counted})")
    table.add_column("trial", no_wrap=True)
    for header in (*(name.removeprefix("training.") for name in names), "accuracy", "95 % interval", "format", ""):
        table.add_column(header, justify="right", no_wrap=True)
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
    """Return what the study has cost so far, by worker and activity."""
    per_hour = (
        "" if ledger.points_per_device_hour is None else f"; {ledger.points_per_device_hour:+.1f} points a device-hour"
    )
    wasted = (
        f"{markdown.seconds(ledger.pruned_seconds)} in pruned runs, {markdown.seconds(ledger.lost_seconds)} in failed ones"
    )
    table = _table(f"Cost: {ledger.device_hours:.2f} device-hours ({wasted}){per_hour}")
    table.add_column("worker")
    for header in ("activity", "time", "share"):
        table.add_column(header, justify="left" if header == "activity" else "right", no_wrap=True)
    for account in ledger.worker_times:
        for activity, seconds in account.seconds.items():
            share = seconds / account.held_seconds if account.held_seconds else 0.0
            table.add_row(account.worker, activity, markdown.seconds(seconds), markdown.percent(share))
    return table


def finalists_table(promotion: Promotion) -> Table:
    """Return the shortlist with what each reached on the search pool and on the confirm stage's fresh problems."""
    table = _table("Shortlist, and what the confirm stage's fresh problems say")
    table.add_column("trial", no_wrap=True)
    for header in ("search", "smoothed", "confirm", "accuracy", "95 % interval", ""):
        table.add_column(header, justify="right", no_wrap=True)
    for one in promotion.finalists:
        confirmed = ("", "", "")
        if one.low is not None and one.high is not None:
            share = f"{one.num_correct / one.num_responses:.1%}"
            confirmed = (f"{one.num_correct} of {one.num_responses}", share, f"{one.low:.1%} – {one.high:.1%}")
        mark = "promoted" if one.run == promotion.run else ""
        table.add_row(one.run, f"{one.search_accuracy:.1%}", f"{one.smoothed_accuracy:.1%}", *confirmed, mark)
    return table


def progression_table(store: StudyStore, run: Run) -> Table:
    """Return a final run's scores on the validation and test pools by step, with the promoted trial beside them."""
    settings = ", ".join(f"{name.removeprefix('training.')} {_value(run, name)}" for name in sorted(run.overrides))
    table = _table(f"{run.name}: {settings or 'the settings of the experiment'}")
    for header in ("run", "pool", "problems", "step", "accuracy", "95 % interval", "format", "wrong answer", ""):
        table.add_column(header, justify="left" if header in ("run", "pool") else "right", no_wrap=True)
    promotion = store.promotion()
    of_trial = store.scores(promotion.run, "validation") if promotion else []
    validated = store.scores(run.name, "validation")
    marks = {best_step(validated): "best", validated[-1].step: "last"} if validated else {}
    if len(marks) == 1 and len(validated) > 1:
        marks = dict.fromkeys(marks, "best, last")
    for score in [*of_trial, *validated, *store.scores(run.name, "test")]:
        wrong = f"{score.counts['wrong_answer'] / sum(score.counts.values()):.1%}"
        mark = marks.get(score.step, "") if score.run == run.name else ""
        table.add_row(score.run, score.pool, str(score.num_problems), str(score.step), *_cells(score), wrong, mark)
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)


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
