"""Writes the note of a trial in optuna-dashboard: its scores beside the base model's, six responses, how to replay it."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import get_args

from mathsft.invocation import command
from mathsft.objective import Objective
from mathsft.records import Category, Problem, Response, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.findings import points
from mathsft.reporting.table import Table, accuracy, count, percent
from mathsft.statistics.paired import compare
from mathsft.store.study_store import StudyStore

NUM_SAMPLES = 6
MOST_CHARACTERS = 1500
"""A longer problem or response is shortened in its middle."""
LINE_CHARACTERS = 88


def trial_note(store: StudyStore, run: Run) -> str:
    """Return a trial's note as Markdown; texts of the data set and of the model are in code blocks."""
    parts = [f"## {run.name}: {run.state}", markdown.settings(run.overrides)]
    if run.reason:
        parts.append(markdown.cell(run.reason))
    scores = store.scores(run.name, run.plan.pool)
    if scores:
        objective, responses = Objective.of(store.settings()), store.responses(scores[-1])
        parts += [
            _against_base(store, scores[-1], objective),
            _progress(scores),
            _categories(scores[-1]),
            *_samples(responses, store.problems(), objective),
        ]
    else:
        parts.append("No checkpoint of this trial is scored.")
    shown = [f"    {command(name, store.study, run.name)}" for name in ("show", "replay")]
    parts += ["### Look closer, or train it again", "\n".join(shown)]
    return "\n\n".join(part for part in parts if part)


def _against_base(store: StudyStore, last: Score, objective: Objective) -> str:
    """Return the trial's last score beside the base model's, on the same problems."""
    solved = f"**{markdown.accuracy(last)}** of {last.num_problems:,} {last.pool} problems at step {last.step}."
    base = next((score for score in store.scores(pool=last.pool) if score.step == 0), None)
    if base is None:
        return f"{solved} The base model is not scored yet."
    gain = compare(*(objective.outcomes(store.responses(score)) for score in (base, last)))
    return f"{solved} Base model: {markdown.accuracy(base)}. Gain on the same problems: {points(gain)}."


def _progress(scores: Sequence[Score]) -> str:
    rows = ((score.step, accuracy(score), percent(score.format_accuracy)) for score in scores)
    return Table.of(("step", "accuracy (95 % interval)", "format accuracy"), rows).markdown()


def _categories(score: Score) -> str:
    total = sum(score.counts.values())
    rows = (
        (category.replace("_", " "), count(num), percent(num / total))
        for category in get_args(Category)
        if (num := score.counts.get(category))
    )
    return Table.of(("responses", "number", "share"), rows).markdown()


def _samples(responses: Sequence[Response], problems: Mapping[str, Problem], objective: Objective) -> list[str]:
    """Return a few responses with their problems and gold answers, from all categories in turn."""
    by_category = [
        [response for response in responses if objective.category(response) == category] for category in get_args(Category)
    ]
    rounds = range(max(map(len, by_category), default=0))
    chosen = [group[place] for place in rounds for group in by_category if place < len(group)][:NUM_SAMPLES]
    parts = [f"### {len(chosen)} of {len(responses):,} responses"]
    for number, response in enumerate(chosen, start=1):
        problem = problems.get(response.problem_id)
        why = objective.reason(response)
        verdict = objective.category(response).replace("_", " ") + (f" ({markdown.cell(why)})" if why else "")
        parts.append(f"**{number}. {verdict}**")
        if problem is not None:
            parts += ["Problem:", _block(problem.problem), "Gold answer:", _block(problem.answer)]
        parts += [f"Response ({response.num_tokens:,} tokens):", _block(response.text)]
    return parts


def _block(text: str) -> str:
    """Return an untrusted text as an indented code block, which nothing in the text can end."""
    half = MOST_CHARACTERS // 2
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:half]} … {text[-half:]}"
    lines = [part for line in shown.strip("\n").splitlines() for part in _wrapped(line)]
    return "\n".join(f"    {line}" for line in lines) or "    (empty)"


def _wrapped(line: str) -> list[str]:
    """Return a line in parts that fit into the dashboard's page, which does not wrap code."""
    return textwrap.wrap(line, LINE_CHARACTERS, drop_whitespace=False, replace_whitespace=False) or [""]
