"""Writes what optuna-dashboard shows of a study: its note and plot, and each trial's note, attributes and responses."""

from optuna.trial import Trial

from mathsft.layout import StudyLayout
from mathsft.records import Run
from mathsft.reporting.dashboard_plot import accuracy_plot
from mathsft.reporting.study_note import study_note
from mathsft.reporting.trial_note import trial_note
from mathsft.store.study_store import StudyStore
from mathsft.study.trial_page import StudyPage, recorded_study, show_study, show_trial


def show_run(trial: Trial, run: Run, store: StudyStore, layout: StudyLayout) -> None:
    """Write a trial's page, and the study's page with the new result; call it before `tell`."""
    show_trial(trial, run, store, layout, trial_note(store, run))
    show_study(trial.study, _page(store))


def refresh_study(store: StudyStore) -> None:
    """Write the study's page with all results so far; without trials do nothing."""
    if (study := store.waiting(lambda: recorded_study(store))) is not None:
        store.waiting(lambda: show_study(study, _page(store)))


def _page(store: StudyStore) -> StudyPage:
    return StudyPage(note=study_note(store), plot=accuracy_plot(store))
