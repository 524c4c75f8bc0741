"""Writes the report's section on a study's trials and the choice of its winner."""

from mathsft import formats
from mathsft.objective import Share
from mathsft.records import Finalist, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.page import Figures, Section
from mathsft.reporting.surface_figures import importance_bars, short_name, surface_map
from mathsft.reporting.trial_figures import study_map, trial_intervals
from mathsft.runs.contest import recorded_observations
from mathsft.runs.weak_signal import weak_signal
from mathsft.statistics.intervals import Interval
from mathsft.store.study_store import StudyStore


def study_section(store: StudyStore, figures: Figures) -> Section:
    """Return the promotion, the shortlist and the figures of the trials; empty without a trial."""
    trials = store.runs("trial")
    if not trials:
        return Section("", "")
    space, observed = recorded_observations(store)
    pool, promotion = trials[0].plan.pool, store.promotion()
    last = last_scores(store, trials)
    base, promoted = base_score(store, pool), promotion.run if promotion is not None else ""
    return Section.of(
        f"The study: {len(trials)} trials",
        _promotion(store),
        _baseline(base),
        f"{weakness}." if (weakness := weak_signal(store)) else "",
        figures.shown("trials", trial_intervals(trials, last, base, promoted)),
        figures.shown("study", study_map(trials, last, promoted)),
        figures.shown("surface", surface_map(space, observed, promotion, trials)),
        figures.shown("importance", importance_bars(space, observed)),
    )


def trials_table(store: StudyStore) -> Section:
    """Return the table of all trials, folded."""
    trials = store.runs("trial")
    if not trials:
        return Section("", "")
    names = sorted({name for trial in trials for name in trial.overrides})
    last = last_scores(store, trials)
    ranked = sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
    headers = ("trial", *map(short_name, names), "accuracy (95 % interval)", "correct", "step", "state")
    table = markdown.table(headers, [_trial_row(trial, names, last.get(trial.name)) for trial in ranked])
    return Section.of("All trials", table, is_folded=True)


def last_scores(store: StudyStore, trials: list[Run]) -> dict[str, Score]:
    """Return each trial's last score on its own pool, by run; trials without a score are left out."""
    return {trial.name: scores[-1] for trial in trials if (scores := store.scores(trial.name, trial.plan.pool))}


def base_score(store: StudyStore, pool: str) -> Score | None:
    """Return the base model's score on a pool; None without one."""
    return next((score for score in store.scores(pool=pool) if score.step == 0), None)


def _promotion(store: StudyStore) -> str:
    promotion = store.promotion()
    if promotion is None:
        return "No trial is promoted yet."
    # A whole reason is longer than the limit of a cell.
    reason = "; ".join(map(markdown.cell, promotion.reason.split("; ")))
    parts = [f"Promoted: **{promotion.run}** ({markdown.settings(promotion.overrides)}): {reason}."]
    if promotion.evidence:
        parts.append(markdown.expectation(promotion))
    rows = [_finalist_row(finalist, finalist.run == promotion.run) for finalist in promotion.finalists]
    if rows:
        headers = ("finalist", "search", "smoothed", "fresh problems", "accuracy on fresh problems (95 % interval)", "")
        parts.append(markdown.table(headers, rows))
    return "\n\n".join(parts)


def _finalist_row(finalist: Finalist, is_promoted: bool) -> tuple[str, ...]:
    measured = (markdown.percent(finalist.search_accuracy), markdown.percent(finalist.smoothed_accuracy))
    mark = "promoted" if is_promoted else ""
    if finalist.low is None or finalist.high is None:
        return finalist.run, *measured, "", "", mark
    confirmed = Share(finalist.num_correct, finalist.num_responses, Interval(finalist.low, finalist.high))
    return finalist.run, *measured, f"{confirmed.num:,} of {confirmed.of:,}", markdown.share(confirmed), mark


def _baseline(base: Score | None) -> str:
    if base is None:
        return ""
    return f"The base model solves {markdown.accuracy(base)} of the same {base.num_problems:,} {base.pool} problems."


def _trial_row(trial: Run, names: list[str], last: Score | None) -> tuple[str, ...]:
    values = (markdown.cell(formats.value(trial.overrides[name])) if name in trial.overrides else "" for name in names)
    state = trial.state + (f": {markdown.cell(trial.reason)}" if trial.reason else "")
    if last is None:
        return trial.name, *values, "", "", "", state
    return trial.name, *values, markdown.accuracy(last), markdown.num_correct(last), str(last.step), state
