"""The tables and pages of `mathsft show`, from the store alone: for people who do not open a dashboard."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mathsft.objective import Objective, Share
from mathsft.records import Problem, Response, Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import Analysis
from mathsft.store.study_store import StudyStore

NUM_EXAMPLES = 2
"""Responses shown of each category."""
NUM_CHANGED = 8
"""Problems named of those gained or lost."""
EXCERPT_CHARACTERS = 400

_ANSWER = re.compile(r"<answer>.*?(?:</answer>|\Z)", re.DOTALL)
_STYLES = {"correct": "green", "wrong_answer": "red", "format_failure": "yellow", "ungraded": "magenta"}
_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {
    0x7F: "␡",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�"),
}
"""Control characters and changes of direction: a terminal would obey them."""


@dataclass(frozen=True)
class StudySummary:
    """One line of the list of studies."""

    study: str
    num_trials: int
    num_finished: int
    best: float | None
    """Highest accuracy of a finished trial on the search pool."""
    promoted: str | None
    num_final_runs: int
    size_bytes: int


def summarise(store: StudyStore, folder: Path) -> StudySummary:
    """Return a study's line."""
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
    """Return all studies, a line each."""
    table = _table("Studies")
    for header in ("study", "trials", "finished", "best accuracy", "promoted", "final runs", "disk"):
        table.add_column(header, justify="left" if header in ("study", "promoted") else "right", no_wrap=True)
    for one in summaries:
        best = "" if one.best is None else markdown.percent(one.best)
        cells = (str(one.num_trials), str(one.num_finished), best, one.promoted or "", str(one.num_final_runs))
        table.add_row(one.study, *cells, markdown.size(one.size_bytes))
    return table


def run_page(
    run: Run,
    analyses: Sequence[Analysis],
    responses: Sequence[Response],
    problems: Mapping[str, Problem],
    objective: Objective,
) -> Group:
    """Return one run: its settings, its scores by step, and the analysis and examples of its last checkpoint."""
    ended = f"{run.state}: {run.reason}" if run.reason else run.state
    parts: list[RenderableType] = [
        Text(f"{run.name}: {ended}\n{markdown.settings(run.overrides)}; {run.plan.num_examples:,} examples; seed {run.seed}")
    ]
    if not analyses:
        return Group(*parts, Text("No checkpoint is scored yet."))
    last = analyses[-1]
    parts += [progress_table(analyses), lengths_table(analyses), _reasons_table(last)]
    parts += [
        _shares_table(title, counts)
        for title, counts in (("By subject", last.by_subject), ("By level", last.by_level))
        if counts
    ]
    parts += [_changes(last, problems)] if len(analyses) > 1 else []
    parts.append(Text(f"\nExamples of each category at step {last.step}:"))
    for category in last.categories:
        chosen = [response for response in responses if objective.category(response) == category][:NUM_EXAMPLES]
        parts += [response_panel(response, problems, objective, EXCERPT_CHARACTERS) for response in chosen]
    return Group(*parts)


def progress_table(analyses: Sequence[Analysis]) -> Table:
    """Return by step what became of the responses, and how many problems were gained and lost since the step before."""
    table = _table(f"On the pool {analyses[-1].pool}, {analyses[-1].format_ok.of:,} responses")
    headers = ("step", "accuracy", "95 % interval", "format", "strict", "wrong", "failed", "ungraded", "gained", "lost")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for one in analyses:
        correct = one.categories["correct"]
        table.add_row(
            str(one.step),
            markdown.percent(correct.share),
            markdown.bounds(correct.interval),
            markdown.percent(one.format_ok.share),
            markdown.percent(one.strictly_correct.share),
            markdown.percent(one.categories["wrong_answer"].share),
            markdown.percent(one.categories["format_failure"].share),
            str(one.categories["ungraded"].num),
            str(len(one.gained)),
            str(len(one.lost)),
        )
    return table


def lengths_table(analyses: Sequence[Analysis]) -> Table:
    """Return by step how long responses are, and how sure the model is."""
    table = _table("Mean tokens of a response; entropy and gold NLL in nats per token")
    for header in ("step", "all", "correct", "incorrect", "cut at the limit", "entropy", "gold NLL"):
        table.add_column(header, justify="right", no_wrap=True)
    for one in analyses:
        means = (one.mean_tokens, one.mean_tokens_correct, one.mean_tokens_incorrect)
        sureness = (_decimal(one.mean_entropy, 3), _decimal(one.gold_nll, 3))
        table.add_row(str(one.step), *(_decimal(mean, 1) for mean in means), str(one.num_cut), *sureness)
    return table


def response_panel(
    response: Response, problems: Mapping[str, Problem], objective: Objective, max_characters: int | None = None
) -> Panel:
    """Return one response with its problem, its gold answer and the verdict; the answer in it is marked."""
    category, problem = objective.category(response), problems.get(response.problem_id)
    asked = [("problem  ", problem.problem), ("gold     ", problem.answer)] if problem is not None else []
    body = Text()
    for label, value in asked:
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
    """Return a response made harmless, its answer in bold; a long one loses its middle, since its answer is at its end."""
    shown = harmless(response)
    if max_characters is not None and len(shown) > max_characters:
        half = max_characters // 2
        shown = f"{shown[:half]} … {shown[-half:]}"
    found = Text(shown)
    found.highlight_regex(_ANSWER, "bold reverse")
    return found


def harmless(foreign: str) -> str:
    """Return a text that a terminal shows instead of obeying it."""
    return foreign.translate(_CONTROL)


def _reasons_table(last: Analysis) -> RenderableType:
    if not last.reasons and not last.tag_flags:
        return Text("No response failed its format.")
    table = _table(f"Why formats fail at step {last.step}")
    for header in ("reason (one each)", "responses", "tags (may overlap)", "responses"):
        table.add_column(header, justify="right" if header == "responses" else "left", no_wrap=True)
    for reason, flag in _side_by_side(last.reasons, last.tag_flags):
        table.add_row(*reason, *flag)
    return table


def _side_by_side(left: Mapping[str, int], right: Mapping[str, int]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    columns = [[(name, f"{num:,}") for name, num in counted.items()] for counted in (left, right)]
    for index in range(max(map(len, columns))):
        first, second = (column[index] if index < len(column) else ("", "") for column in columns)
        yield first, second


def _shares_table(title: str, counts: Mapping[str, Share]) -> Table:
    table = _table(title)
    for header in ("", "responses", "correct", "accuracy", "95 % interval"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for name, counted in counts.items():
        measured = (markdown.percent(counted.share), markdown.bounds(counted.interval))
        table.add_row(harmless(name), f"{counted.of:,}", f"{counted.num:,}", *measured)
    return table


def _changes(last: Analysis, problems: Mapping[str, Problem]) -> Text:
    lines = Text("\nSince the checkpoint before:")
    for label, ids in (("gained", last.gained), ("lost", last.lost)):
        lines.append(f"\n  {label} {len(ids)} problems")
        for problem_id in ids[:NUM_CHANGED]:
            problem = problems.get(problem_id)
            asked = harmless(problem.problem.replace("\n", " "))[:80] if problem is not None else ""
            lines.append(f"\n    {problem_id}  {asked}")
        if len(ids) > NUM_CHANGED:
            lines.append(f"\n    … and {len(ids) - NUM_CHANGED} more")
    return lines


def _decimal(value: float | None, num_digits: int) -> str:
    return "" if value is None else f"{value:.{num_digits}f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
