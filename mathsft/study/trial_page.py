"""Writes into Optuna's study what optuna-dashboard shows: notes, a plot, attributes, and responses as artifacts."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import Trial
from optuna_dashboard import save_note, save_plotly_graph_object

from mathsft.layout import StudyLayout
from mathsft.objective import Objective, accuracy_interval
from mathsft.records import Problem, Response, Run, Score
from mathsft.store.study_store import StudyStore
from mathsft.study.search import optuna_storage

PLOT = "accuracy"
"""The id of the plot, under which a new one replaces the old one."""


@dataclass(frozen=True)
class StudyPage:
    """The content of a study's page: its note in Markdown, and the plot by Plotly's schema (None without a result)."""

    note: str
    plot: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Plot:
    """A plot as save_plotly_graph_object takes it. Plotly itself is a large package, and only its JSON is needed."""

    content: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps(self.content)


def show_study(study: optuna.Study, page: StudyPage) -> None:
    """Write the study's note and plot."""
    save_note(study, page.note)
    if page.plot is not None:
        save_plotly_graph_object(study, _Plot(page.plot), graph_object_id=PLOT)


def show_trial(trial: Trial, run: Run, store: StudyStore, layout: StudyLayout, note: str) -> None:
    """Attach the run's results to its Optuna trial; call it before `tell`, since Optuna does not change ended trials."""
    scores = store.scores(run.name, run.plan.pool)
    attributes: dict[str, float | str] = {
        "state": run.state,
        **({"reason": run.reason} if run.reason else {}),
        "train_seconds": round(sum(checkpoint.costs.train_seconds for checkpoint in store.checkpoints(run.name)), 2),
        "generate_seconds": round(sum(score.costs.generate_seconds for score in store.scores(run.name)), 2),
    }
    if scores:
        interval = accuracy_interval(scores[-1])
        attributes |= {"interval_low": round(interval.low, 4), "interval_high": round(interval.high, 4)}
        attributes["format_accuracy"] = scores[-1].format_accuracy
        _upload_responses(trial, scores[-1], store, layout)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    save_note(trial, note)


def recorded_study(store: StudyStore) -> optuna.Study | None:
    """Return Optuna's study in the store's database; None if no trial was asked for, as before a final run alone."""
    if not store.asks():
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name=store.study, storage=optuna_storage(store.database))


def _upload_responses(trial: Trial, score: Score, store: StudyStore, layout: StudyLayout) -> None:
    """Attach the responses as a CSV, which the dashboard opens as a table."""
    if get_all_artifact_meta(trial):
        return  # an earlier driver attached them and was killed before it told Optuna the trial's end
    path, problems, objective = layout.table(score.run, score.pool), store.problems(), Objective.of(store.settings())
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = ("problem_id", "category", "reason", "gold", "answer", "num_tokens", "problem", "response")
        writer.writerow(columns)
        for response in store.responses(score):
            writer.writerow(_row(response, objective, problems))
    layout.artifacts.mkdir(exist_ok=True)
    upload_artifact(artifact_store=FileSystemArtifactStore(layout.artifacts), file_path=str(path), study_or_trial=trial)


def _row(response: Response, objective: Objective, problems: Mapping[str, Problem]) -> list[object]:
    problem = problems.get(response.problem_id)
    gold, text = (problem.answer, problem.problem) if problem is not None else ("", "")
    counted = objective.category(response), objective.reason(response)
    return [response.problem_id, *counted, gold, response.verdict.body, response.num_tokens, text, response.text]
