"""Builds the tables and pages of `mathsft show`, from the store."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mathsft import formats
from mathsft.objective import Objective, Share
from mathsft.records import Problem, Response, Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import Analysis
from mathsft.reporting.table import harmless
from mathsft.reporting.terminal import plain_table
from mathsft.store.study_store import StudyStore

NUM_EXAMPLES = 2
"""Number of responses shown per category."""
NUM_CHANGED = 8
"""Number of problems listed of those gained, and of those lost."""
EXCERPT_CHARACTERS = 400

_ANSWER = re.compile(r"<answer>.*?(?:</answer>|\Z)", re.DOTALL)
_STYLES = {"correct": "green", "wrong_answer": "red", "format_failure": "yellow", "ungraded": "magenta"}


@dataclass(frozen=True)
class StudySummary:
    """One row of the list of studies."""

    study: str
    num_trials: int
    num_finished: int
    best: float | None
    """Highest accuracy of a finished trial on the search pool."""
    promoted: str | None
    num_final_runs: int
    size_bytes: int


def summarise(store: StudyStore, folder: Path) -> StudySummary:
    """Return a study's row; folder is its results folder."""
    trials, promotion = store.runs("trial"), store.promotion()
    values = [trial.value for trial in trials if trial.value is not None]
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return StudySummary(
        study=store.study,
        num_trials=len(trials),
        num_finished=sum(trial.state == "finished" for trial in trials),
        best=max(values, default=None),
        promoted=promotion.run if promotion else None,
        num_final_runs=len(store.runs("final")),
        size_bytes=size_bytes,
    )


def studies_table(summaries: Sequence[StudySummary]) -> Table:
    """Return the list of studies."""
    headers = ("study", "trials", "finished", "best accuracy", "promoted", "final runs", "disk")
    table = plain_table("Studies", headers, left=("study", "promoted"))
    for summary in summaries:
        best = "" if summary.best is None else markdown.percent(summary.best)
        counts = (str(summary.num_trials), str(summary.num_finished), best)
        more = (summary.promoted or "", str(summary.num_final_runs), formats.size(summary.size_bytes))
        table.add_row(summary.study, *counts, *more)
    return table


def run_page(
    run: Run,
    analyses: Sequence[Analysis],
    responses: Sequence[Response],
    problems: Mapping[str, Problem],
    objective: Objective,
) -> Group:
    """Return a run's settings, its scores by step, and the analysis and example responses of its last checkpoint."""
    ended = f"{run.state}: {run.reason}" if run.reason else run.state
    parts: list[RenderableType] = [
        Text(f"{run.name}: {ended}\n{markdown.settings(run.overrides)}; {run.plan.num_examples:,} examples; seed {run.seed}")
    ]
    if not analyses:
        return Group(*parts, Text("No checkpoint is scored yet."))
    last = analyses[-1]
    parts += [progress_table(analyses), lengths_table(analyses), _reasons_table(last)]
    for title, counts in (("By subject", last.by_subject), ("By level", last.by_level)):
        if counts:
            parts.append(_shares_table(title, counts))
    parts += [_changes(last, problems)] if len(analyses) > 1 else []
    parts.append(Text(f"\nExamples of each category at step {last.step}:"))
    for category in last.categories:
        chosen = [response for response in responses if objective.category(response) == category][:NUM_EXAMPLES]
        parts += [response_panel(response, problems, objective, EXCERPT_CHARACTERS) for response in chosen]
    return Group(*parts)


def progress_table(analyses: Sequence[Analysis]) -> Table:
    """Return the shares of the response categories by step, and the problems gained and lost since the previous step."""
    title = f"On the pool {analyses[-1].pool}, {analyses[-1].format_ok.of:,} responses"
    headers = ("step", "accuracy", "95 % interval", "format", "strict", "wrong", "failed", "ungraded", "gained", "lost")
    table = plain_table(title, headers)
    for analysis in analyses:
        correct = analysis.categories["correct"]
        table.add_row(
            str(analysis.step),
            markdown.percent(correct.share),
            markdown.bounds(correct.interval),
            markdown.percent(analysis.format_ok.share),
            markdown.percent(analysis.strictly_correct.share),
            markdown.percent(analysis.categories["wrong_answer"].share),
            markdown.percent(analysis.categories["format_failure"].share),
            str(analysis.categories["ungraded"].num),
            str(len(analysis.gained)),
            str(len(analysis.lost)),
        )
    return table


def lengths_table(analyses: Sequence[Analysis]) -> Table:
    """Return mean response lengths, the number of truncated responses, mean token entropy and gold NLL by step."""
    title = "Mean tokens of a response; entropy and gold NLL in nats per token"
    table = plain_table(title, ("step", "all", "correct", "incorrect", "truncated", "entropy", "gold NLL"))
    for analysis in analyses:
        means = (analysis.mean_tokens, analysis.mean_tokens_correct, analysis.mean_tokens_incorrect)
        nats = (_decimal(analysis.mean_entropy, 3), _decimal(analysis.gold_nll, 3))
        table.add_row(str(analysis.step), *(_decimal(mean, 1) for mean in means), str(analysis.num_cut), *nats)
    return table


def response_panel(
    response: Response, problems: Mapping[str, Problem], objective: Objective, max_characters: int | None = None
) -> Panel:
    """Return one response with its problem, gold answer and verdict; the answer in the response is highlighted."""
    category, problem = objective.category(response), problems.get(response.problem_id)
    fields = [("problem  ", problem.problem), ("gold     ", problem.answer)] if problem is not None else []
    body = Text()
    for label, value in fields:
        body.append(label, style="dim").append(harmless(value)).append("\n")
    body.append("response ", style="dim").append(marked(response.text, max_characters)).append("\n")
    why = objective.reason(response) or {"wrong_answer": "the answer is not the gold one"}.get(category, "")
    body.append("verdict  ", style="dim").append(category, style=_STYLES[category])
    body.append(f"  {why}" if why else "")
    facts = [f"{response.num_tokens} tokens", f"finished by {response.finish_reason}"]
    facts += [f"entropy {response.entropy:.3f}"] if response.entropy is not None else []
    title = f"{response.problem_id}" + (f", sample {response.sample}" if response.sample else "")
    return Panel(body, title=title, subtitle=", ".join(facts), title_align="left", subtitle_align="left", box=box.ROUNDED)


def marked(response: str, max_characters: int | None = None) -> Text:
    """Return a response without control characters, its answer highlighted; a long response is shortened in its middle."""
    shown = harmless(response)
    if max_characters is not None and len(shown) > max_characters:
        half = max_characters // 2
        shown = f"{shown[:half]} … {shown[-half:]}"
    text = Text(shown)
    text.highlight_regex(_ANSWER, "bold reverse")
    return text


def _reasons_table(last: Analysis) -> RenderableType:
    if not last.reasons and not last.tag_flags:
        return Text("No response failed its format.")
    reason_header, fault_header = "reason (one per response)", "tag faults (may overlap)"
    headers = (reason_header, "responses", fault_header, "responses")
    table = plain_table(f"Format failures at step {last.step}", headers, left=(reason_header, fault_header))
    columns = ([(name, f"{num:,}") for name, num in counted.items()] for counted in (last.reasons, last.tag_flags))
    for reason, fault in zip_longest(*columns, fillvalue=("", "")):
        table.add_row(*reason, *fault)
    return table


def _shares_table(title: str, counts: Mapping[str, Share]) -> Table:
    table = plain_table(title, ("", "responses", "correct", "accuracy", "95 % interval"), left=("",))
    for name, counted in counts.items():
        measured = (markdown.percent(counted.share), markdown.bounds(counted.interval))
        table.add_row(harmless(name), f"{counted.of:,}", f"{counted.num:,}", *measured)
    return table


def _changes(last: Analysis, problems: Mapping[str, Problem]) -> Text:
    lines = Text("\nSince the previous checkpoint:")
    for label, ids in (("gained", last.gained), ("lost", last.lost)):
        lines.append(f"\n  {label} {len(ids)} problems")
        for problem_id in ids[:NUM_CHANGED]:
            problem = problems.get(problem_id)
            text = harmless(problem.problem.replace("\n", " "))[:80] if problem is not None else ""
            lines.append(f"\n    {problem_id}  {text}")
        if len(ids) > NUM_CHANGED:
            lines.append(f"\n    … and {len(ids) - NUM_CHANGED} more")
    return lines


def _decimal(value: float | None, num_digits: int) -> str:
    return "" if value is None else f"{value:.{num_digits}f}"
