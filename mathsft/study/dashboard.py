"""Attaches to an Optuna trial what optuna-dashboard shows: attributes, a note, and the responses as a table."""

import csv

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import Trial
from optuna_dashboard import save_note

from mathsft.layout import StudyLayout
from mathsft.objective import Objective, accuracy_interval
from mathsft.records import Response, Run, Score
from mathsft.store.study_store import StudyStore

NUM_SAMPLES = 6


def show_trial(trial: Trial, run: Run, store: StudyStore, layout: StudyLayout) -> None:
    """Attach the run's results to its Optuna trial; call it before `tell`, since Optuna does not change ended trials."""
    scores, note = store.scores(run.name, run.plan.pool), f"## {run.name}: {run.state}\n\n{run.reason}"
    attributes: dict[str, float | str] = {
        "state": run.state,
        **({"reason": run.reason} if run.reason else {}),
        "train_seconds": round(sum(checkpoint.costs.train_seconds for checkpoint in store.checkpoints(run.name)), 2),
        "generate_seconds": round(sum(score.costs.generate_seconds for score in store.scores(run.name)), 2),
    }
    if scores:
        last, responses = scores[-1], store.responses(scores[-1])
        interval, objective = accuracy_interval(last), Objective.of(store.settings())
        attributes |= {"interval_low": round(interval.low, 4), "interval_high": round(interval.high, 4)}
        attributes["format_accuracy"] = last.format_accuracy
        _upload_responses(trial, last, responses, objective, layout)
        note = _note(run, scores, responses, objective)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    save_note(trial, note)


def _note(run: Run, scores: list[Score], responses: list[Response], objective: Objective) -> str:
    rows = []
    for score in scores:
        interval = accuracy_interval(score)
        bounds = f"{interval.low:.1%} – {interval.high:.1%}"
        rows.append(f"| {score.step} | {score.accuracy:.1%} | {bounds} | {score.format_accuracy:.1%} |")
    samples = [
        f"| {_cell(objective.category(response))} | {_cell(objective.reason(response))} | `{_cell(response.text)}` |"
        for response in responses[:NUM_SAMPLES]
    ]
    return "\n".join(
        [
            f"## {run.name}: {run.state}",
            run.reason,
            "",
            f"On the {scores[-1].num_problems} problems of the pool `{scores[-1].pool}`:",
            "",
            "| step | accuracy | 95 % interval | format accuracy |",
            "|---:|---:|---:|---:|",
            *rows,
            "",
            "### Responses",
            "| verdict | reason | response |",
            "|---|---|---|",
            *samples,
        ]
    )


def _cell(text: str) -> str:
    """Return text that cannot break out of a Markdown table's cell or code span."""
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _upload_responses(
    trial: Trial, score: Score, responses: list[Response], objective: Objective, layout: StudyLayout
) -> None:
    """Attach the responses as a CSV, which the dashboard opens as a table."""
    if get_all_artifact_meta(trial):
        return  # an earlier driver attached them and was killed before it told Optuna the trial's end
    path = layout.table(score.run, score.pool)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["problem_id", "category", "reason", "answer", "num_tokens", "response"])
        for response in responses:
            counted = objective.category(response), objective.reason(response)
            writer.writerow([response.problem_id, *counted, response.verdict.body, response.num_tokens, response.text])
    layout.artifacts.mkdir(exist_ok=True)
    upload_artifact(artifact_store=FileSystemArtifactStore(layout.artifacts), file_path=str(path), study_or_trial=trial)
