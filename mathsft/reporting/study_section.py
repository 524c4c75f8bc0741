"""Writes the report's section on a study's trials and the choice of its winner."""

from mathsft.records import Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.page import Figures, Section
from mathsft.reporting.surface_figures import importance_bars, surface_map
from mathsft.reporting.trial_figures import study_map, trial_intervals
from mathsft.reporting.trial_tables import all_trials_table, finalists_table
from mathsft.runs.contest import recorded_observations
from mathsft.runs.weak_signal import weak_signal
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
    return Section.of("All trials", all_trials_table(store).without("format", "").markdown(), is_folded=True)


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
    if promotion.finalists:
        finalists = finalists_table(promotion)
        parts += [f"{finalists.title}:", finalists.markdown()]
    return "\n\n".join(parts)


def _baseline(base: Score | None) -> str:
    if base is None:
        return ""
    return f"The base model solves {markdown.accuracy(base)} of the same {base.num_problems:,} {base.pool} problems."
