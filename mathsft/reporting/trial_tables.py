"""Tables of a study's trials: their settings and last scores, the shortlist of the promotion, and the list of studies."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mathsft.objective import Share
from mathsft.records import Finalist, Promotion, Run
from mathsft.reporting.surface_figures import short_name
from mathsft.reporting.table import WITH_INTERVAL, Cell, Part, Table, accuracy, correct, percent, setting, size
from mathsft.statistics.intervals import Interval
from mathsft.store.study_store import StudyStore

NUM_SHOWN_TRIALS = 8


def all_trials_table(store: StudyStore) -> Table:
    """Return all trials, the best first, with their settings, last scores and states."""
    trials = store.runs("trial")
    ranked = sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
    return _table(store, ranked, trials)


def best_trials_table(store: StudyStore, num_shown: int = NUM_SHOWN_TRIALS) -> Table:
    """Return the num_shown best trials that ended with a value, and the baseline."""
    trials, baseline = store.runs("trial"), store.run("baseline")
    states = [trial.state for trial in trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    ranked = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: -(trial.value or 0.0))
    runs = [*ranked[:num_shown], *([None] if len(ranked) > num_shown else []), *([baseline] if baseline else [])]
    return _table(store, runs, trials, f"Study {store.study}, {len(trials)} trials ({counted})").without(
        "correct", "step", "state"
    )


def finalists_table(promotion: Promotion) -> Table:
    """Return the shortlisted trials with their scores on the search pool and on the fresh problems of the confirm stage."""

    def row(finalist: Finalist) -> tuple[Cell, ...]:
        searched = (percent(finalist.search_accuracy), percent(finalist.smoothed_accuracy))
        mark = "promoted" if finalist.run == promotion.run else None
        if finalist.low is None or finalist.high is None:
            return finalist.run, *searched, None, None, mark
        counts = finalist.num_correct, finalist.num_responses
        return finalist.run, *searched, Part(*counts), Share(*counts, Interval(finalist.low, finalist.high)), mark

    headers = ("trial", "search", "smoothed", "confirm", f"accuracy{WITH_INTERVAL}", "")
    return Table.of(headers, map(row, promotion.finalists), "Shortlist, with the scores on fresh problems (confirm)")


def study_row(store: StudyStore, folder: Path) -> tuple[Cell, ...]:
    """Return a study's row in the list of studies; folder is its results folder."""
    trials, promotion = store.runs("trial"), store.promotion()
    best = max((trial.value for trial in trials if trial.value is not None), default=None)
    num_finished = sum(trial.state == "finished" for trial in trials)
    counts = (len(trials), num_finished, percent(best), promotion.run if promotion else None, len(store.runs("final")))
    return store.study, *counts, size(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def studies_table(rows: Iterable[tuple[Cell, ...]]) -> Table:
    """Return the list of studies."""
    return Table.of(("study", "trials", "finished", "best accuracy", "promoted", "final runs", "disk"), rows, "Studies")


def _table(store: StudyStore, runs: Sequence[Run | None], trials: Sequence[Run], title: str = "") -> Table:
    """Return a row for each run; None is a row of omitted runs."""
    promotion = store.promotion()
    names = sorted({name for trial in trials for name in trial.overrides})
    headers = ("trial", *map(short_name, names), f"accuracy{WITH_INTERVAL}", "correct", "step", "format", "state", "")

    def row(run: Run | None) -> tuple[Cell, ...]:
        if run is None:
            return "…", *(None for _ in headers[1:])
        is_promoted = promotion is not None and promotion.run == run.name
        last = next(iter(store.scores(run.name, run.plan.pool)[-1:]), None)
        shown: tuple[Cell, ...] = (None,) * 4
        if last is not None:
            shown = accuracy(last), correct(last), last.step, percent(last.format_accuracy)
        if run.state == "diverged":
            shown = percent(0.0), *shown[1:3], None
        mark = "promoted" if is_promoted else "diverged" if run.state == "diverged" else None
        state = f"{run.state}: {run.reason}" if run.reason else run.state
        return run.name, *(setting(run.overrides.get(name)) for name in names), *shown, state, mark

    return Table.of(headers, map(row, runs), title)
