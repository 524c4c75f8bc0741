"""Builds the pages of `mathsft show`: a run with its tables, and single responses."""

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from mathsft.objective import Objective
from mathsft.records import Problem, Response, Run
from mathsft.reporting import markdown
from mathsft.reporting.analysis import Analysis
from mathsft.reporting.score_tables import lengths_table, progress_table, reasons_table, shares_table
from mathsft.reporting.table import harmless

NUM_EXAMPLES = 2
"""Number of responses shown per category."""
NUM_CHANGED = 8
"""Number of problems listed of those gained, and of those lost."""
EXCERPT_CHARACTERS = 400

_ANSWER = re.compile(r"<answer>.*?(?:</answer>|\Z)", re.DOTALL)
_STYLES = {"correct": "green", "wrong_answer": "red", "format_failure": "yellow", "ungraded": "magenta"}


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
    tables = [progress_table(analyses).without("responses"), lengths_table(analyses), reasons_table(last)]
    tables += [
        shares_table(f"By {kind}", counts) for kind, counts in (("subject", last.by_subject), ("level", last.by_level))
    ]
    parts += [table.terminal() for table in tables if table.rows]
    parts += [_changes(last, problems)] if len(analyses) > 1 else []
    parts.append(Text(f"\nExamples of each category at step {last.step}:"))
    for category in last.categories:
        chosen = [response for response in responses if objective.category(response) == category][:NUM_EXAMPLES]
        parts += [response_panel(response, problems, objective, EXCERPT_CHARACTERS) for response in chosen]
    return Group(*parts)


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
