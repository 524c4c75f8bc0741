"""Reads the results of a study and its final run, and counts the differences between two of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from mathsft.data.weights import fingerprint
from mathsft.layout import StudyLayout
from mathsft.records import Promotion, Run
from mathsft.store.study_store import StudyStore


@dataclass(frozen=True)
class End:
    """The results of a study and its final run that must not depend on kills."""

    runs: dict[str, Run]
    promotion: Promotion | None
    trials: dict[int, Any]
    """Optuna's trials by number: parameters, state, value and intermediate values."""
    scores: dict[tuple[str, int, str], Any]
    """The weights' fingerprint, the counts and the responses by run, step and pool."""
    curves: dict[str, list[Any]]
    """The step metrics of each run, without times."""
    num_repeated_steps: int
    """Lines of metrics files that repeat a step."""
    num_half_files: int
    """Partly written files, and weights whose fingerprint differs from the store's."""


@dataclass(frozen=True)
class Differences:
    """The differences between two ends. Steps and scores of a pruned trial after its stop are not counted."""

    lost: int
    """Missing runs, trials, scores and steps."""
    doubled: int
    """Runs, trials, scores and steps that are recorded twice or should not exist."""
    curves_differ: int
    """Runs whose step metrics are not equal to the bit."""
    results_differ: int
    """Runs, trials, scores and promotions that exist in both ends but are not equal."""


def read_end(layout: StudyLayout, study: str) -> End:
    """Return the results of a study, from its database and its files."""
    store = StudyStore.open(layout.database_url, study)
    runs = {run.name: run for run in store.runs()}
    storage = optuna.storages.RDBStorage(layout.database_url)
    steps = [step for name in runs for step in _steps_on_disk(layout.metrics(name))]
    weights = [checkpoint for name in runs for checkpoint in store.checkpoints(name) if checkpoint.path]
    corrupt = [
        checkpoint
        for checkpoint in weights
        if (layout / checkpoint.path).exists() and fingerprint(layout / checkpoint.path) != checkpoint.fingerprint
    ]
    end = End(
        runs=runs,
        promotion=store.promotion(),
        trials={
            trial.number: (trial.params, trial.state.name, trial.value, trial.intermediate_values)
            for trial in optuna.load_study(study_name=study, storage=storage).trials
        },
        scores={
            (score.run, score.step, score.pool): (
                score.fingerprint,
                score.counts,
                [(each.problem_id, each.sample, each.text, each.verdict) for each in store.responses(score)],
            )
            for score in store.scores()
        },
        curves={name: [replace(step, seconds=0.0, flop_utilization=None) for step in store.metrics(name)] for name in runs},
        num_repeated_steps=len(steps) - len(set(steps)),
        num_half_files=len(corrupt) + _num_half_files(layout.root),
    )
    store.close()
    return end


def compare(expected: End, actual: End) -> Differences:
    """Return the differences of an end from the expected one."""
    lost = doubled = results_differ = 0
    stopped = {run.name for run in actual.runs.values() if run.state == "pruned"}
    tables: list[tuple[Mapping[Any, Any], Mapping[Any, Any]]] = [
        (expected.runs, actual.runs),
        (expected.trials, actual.trials),
        (_without(stopped, expected.scores), _without(stopped, actual.scores)),
        ({"": expected.promotion}, {"": actual.promotion}),
    ]
    for old, new in tables:
        lost += len(old.keys() - new.keys())
        doubled += len(new.keys() - old.keys())
        results_differ += sum(old[key] != new[key] for key in old.keys() & new.keys())
    curves_differ = 0
    for name in expected.curves.keys() & actual.curves.keys():
        old_curve, new_curve = expected.curves[name], actual.curves[name]
        num_common = min(len(old_curve), len(new_curve))
        curves_differ += old_curve[:num_common] != new_curve[:num_common]
        if name not in stopped:
            lost += len(old_curve) - num_common
            doubled += len(new_curve) - num_common
    return Differences(lost, doubled + actual.num_repeated_steps, curves_differ, results_differ)


def _without(runs: set[str], scores: Mapping[tuple[str, int, str], Any]) -> dict[tuple[str, int, str], Any]:
    return {key: score for key, score in scores.items() if key[0] not in runs}


def _steps_on_disk(path: Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [(row["run"], row["step"]) for row in rows]


def _num_half_files(folder: Path) -> int:
    """Count the unpublished files and folders of mathsft (.partial) and of safetensors (.tmp…)."""
    return sum(path.suffix == ".partial" or path.name.startswith(".tmp") for path in folder.rglob("*"))
