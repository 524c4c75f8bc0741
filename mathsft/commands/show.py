"""mathsft show: prints all studies, one study's trials, or one run and its responses, from the database."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.pager import SystemPager

from mathsft.commands.opening import open_console, storage_options
from mathsft.commands.stores import all_studies, store_to_read
from mathsft.config.files import STUDIES
from mathsft.errors import OK, UserError
from mathsft.interrupts import raising
from mathsft.invocation import command
from mathsft.objective import Objective
from mathsft.records import Problem, Response, Run, Score
from mathsft.reporting import markdown
from mathsft.reporting.analysis import analyse_run
from mathsft.reporting.score_tables import progress_table
from mathsft.reporting.show_pages import response_panel, run_page
from mathsft.reporting.trial_tables import best_trials_table, studies_table, study_row
from mathsft.runs.pool_names import TEST_POOL
from mathsft.runs.retention import best_step
from mathsft.runs.verdict import study_verdict
from mathsft.store.study_store import StudyStore
from mathsft.streams import readable


def run(arguments: argparse.Namespace) -> int:
    """Print all studies, a study, a run, or its responses."""
    console = open_console()
    if arguments.study is None:
        return _show_studies(console, arguments.storage, arguments.json)
    with store_to_read(arguments.study, arguments.storage) as store:
        if arguments.run is None:
            return _show_study(store, arguments, console)
        run = find_run(store, arguments.run)
        pool = arguments.pool or run.plan.pool
        if arguments.responses or arguments.search:
            return _show_responses(store, run, pool, arguments, console)
        return _show_run(store, run, pool, arguments, console)


def find_run(store: StudyStore, name: str) -> Run:
    """Return a run by its name, a trial's number, "best" (the promoted trial) or "final" (the latest final run)."""
    runs = {run.name: run for run in store.runs()}
    promotion, finals = store.promotion(), store.runs("final")
    aliases = {"best": promotion.run if promotion else "", "final": finals[-1].name if finals else ""}
    wanted = f"trial-{name}" if name.isdecimal() else aliases.get(name, name)
    if wanted not in runs:
        raise UserError(f"study {store.study} has no run {name!r}; its runs: {', '.join(runs) or 'none yet'}")
    return runs[wanted]


def _show_studies(console: Console, storage: str | None, as_json: bool) -> int:
    rows = []
    for layout in all_studies(storage):
        with store_to_read(str(layout.root), storage) as store:
            rows.append(study_row(store, layout.root))
    if as_json:
        return _print_json(console, studies_table(rows).json())
    if not rows:
        console.print(f"There is no study with results in {STUDIES.absolute()} yet. Start with: {command('study')}")
        return OK
    console.print(studies_table(rows).terminal())
    console.print(f"Next: {command('show', str(rows[0][0]), *storage_options(storage))}")
    return OK


def _show_study(store: StudyStore, arguments: argparse.Namespace, console: Console) -> int:
    runs, promotion = store.runs(), store.promotion()
    if arguments.json:
        listed = [{**asdict(run), "scores": [_score_facts(score) for score in store.scores(run.name)]} for run in runs]
        return _print_json(
            console, {"study": store.study, "verdict": study_verdict(store), "runs": listed, "promotion": promotion}
        )
    console.print(best_trials_table(store, num_shown=len(runs)).terminal())
    if promotion is not None:
        console.print(f"Promoted: {promotion.run}, {promotion.reason}.")
    for final in store.runs("final"):
        tested = {score.step: score for score in store.scores(final.name, TEST_POOL)}
        best = tested.get(best_step(validated)) if (validated := store.scores(final.name, final.plan.pool)) else None
        solved = f", {markdown.accuracy(best)} of {best.num_problems:,} test problems at step {best.step}" if best else ""
        console.print(f"Final run: {final.name}, {final.state}{solved}")
    example = promotion.run if promotion else runs[-1].name if runs else "RUN"
    console.print(f"Next: {command('show', arguments.study, example, *storage_options(arguments.storage))}")
    return OK


def _show_run(store: StudyStore, run: Run, pool: str, arguments: argparse.Namespace, console: Console) -> int:
    analyses = analyse_run(store, run.name, pool)
    if arguments.step is not None:
        score = _score_at(store, run, pool, arguments.step)
        analyses = [analysis for analysis in analyses if analysis.step <= score.step]
    if arguments.json:
        return _print_json(console, {**asdict(run), "checkpoints": analyses})
    last = store.score(run.name, analyses[-1].step, pool) if analyses else None
    responses = store.responses(last) if last else []
    page = run_page(run, analyses, responses, store.problems(), Objective.of(store.settings()))
    tested = analyse_run(store, run.name, TEST_POOL) if pool != TEST_POOL else []
    _print_long(console, [page, *([progress_table(tested).without("responses").terminal()] if tested else [])])
    options = ("--responses", "wrong_answer", *storage_options(arguments.storage))
    console.print(f"Next: {command('show', arguments.study, run.name, *options)}")
    return OK


def _show_responses(store: StudyStore, run: Run, pool: str, arguments: argparse.Namespace, console: Console) -> int:
    score, problems = _score_at(store, run, pool, arguments.step), store.problems()
    objective = Objective.of(store.settings())
    chosen = [
        response
        for response in store.responses(score)
        if arguments.responses in (None, "all", objective.category(response))
        and _contains(response, problems.get(response.problem_id), arguments.search or "")
    ]
    if arguments.json:
        return _print_json(console, chosen)
    total = sum(score.counts.values())
    heading = f"{run.name} at step {score.step}, pool {pool}: {len(chosen)} of {total} responses"
    _print_long(console, [heading, *(response_panel(response, problems, objective) for response in chosen)])
    return OK


def _score_at(store: StudyStore, run: Run, pool: str, step: int | None) -> Score:
    """Return the run's score at a step; the last score if no step is given."""
    scores = store.scores(run.name, pool)
    if not scores:
        pools = sorted({score.pool for score in store.scores(run.name)})
        raise UserError(f"{run.name} has no score on the pool {pool!r}; it has scores on: {', '.join(pools) or 'none yet'}")
    chosen = scores[-1] if step is None else next((score for score in scores if score.step == step), None)
    if chosen is None:
        steps = ", ".join(str(score.step) for score in scores)
        raise UserError(f"--step {step}: {run.name} has no score at this step on the pool {pool}; its steps: {steps}")
    return chosen


def _contains(response: Response, problem: Problem | None, text: str) -> bool:
    problem_text = f"{problem.problem}\n{problem.answer}" if problem is not None else ""
    return text.casefold() in f"{response.problem_id}\n{problem_text}\n{response.text}".casefold()


def _score_facts(score: Score) -> dict[str, Any]:
    return {"step": score.step, "pool": score.pool, "accuracy": score.accuracy, "counts": score.counts}


class _Pager(SystemPager):
    """The system's pager, with this project's readable replacements for characters that the encoding lacks."""

    def show(self, content: str) -> None:
        super().show(readable(content, sys.stdout.encoding))


def _print_long(console: Console, parts: Sequence[RenderableType]) -> None:
    """Print the parts; on a terminal through the pager."""
    pages: AbstractContextManager[Any] = console.pager(_Pager(), styles=True) if console.is_terminal else nullcontext()
    with raising(), pages:  # Ctrl-C is for the pager, and pydoc waits for its end
        for part in parts:
            console.print(part, markup=False, soft_wrap=False)


def _print_json(console: Console, value: Any) -> int:
    console.out(json.dumps(to_jsonable_python(value), indent=2), highlight=False)
    return OK
