"""mathsft grade: grades a file of answers or responses, without a study or a model."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from mathsft.data.file_rows import parse_row
from mathsft.errors import OK, UserError, excerpt
from mathsft.prompts.tags import parse_response
from mathsft.prompts.verdicts import Completion, Graded, grade
from mathsft.records import Category
from mathsft.tasks.math.gold import extract_gold
from mathsft.tasks.math.grader import MathGrader

_NUM_AT_ONCE = 500
"""Lines between two updates of the progress bar."""

_MAX_MISTAKES = 10
"""Number of bad lines that are shown; further ones are only counted."""

_GOLD_KINDS = ("answer", "math_solution", "gsm8k_solution")


_Item: TypeAlias = tuple[str | int, Completion]
"""The id of a line of input, and its answer or response with the extracted gold answer."""


def run(arguments: argparse.Namespace) -> int:
    """Grade the file's lines, write one verdict per line, and print the counts by category.

    All good lines are graded; then UserError names the bad lines.
    """
    console = Console(stderr=True, highlight=False)
    out = Path(arguments.out) if arguments.out else None
    if out and (out.is_dir() or not os.access(out.parent, os.W_OK)):
        raise UserError(f"--out {out}: no file can be written there; name another file")
    items, mistakes = _read(arguments.file)
    graded: list[Graded] = []
    with MathGrader(num_processes=len(os.sched_getaffinity(0))) as grader:
        starts = range(0, len(items), _NUM_AT_ONCE)
        for start in track(starts, "Grading", console=console, transient=True, disable=not console.is_terminal):
            completions = [completion for _, completion in items[start : start + _NUM_AT_ONCE]]
            graded += grade(completions, parse_response, grader)
    outcomes = list(map(_outcome, items, graded))
    _write("".join(json.dumps(outcome) + "\n" for outcome in outcomes), out)
    by_strict = Counter(one.verdict.category if one.is_strict else "format_failure" for one in graded)
    console.print(_table(outcomes, by_strict))
    if mistakes:
        more = [f"… and {len(mistakes) - _MAX_MISTAKES} more"] if len(mistakes) > _MAX_MISTAKES else []
        raise UserError("\n".join([*mistakes[:_MAX_MISTAKES], *more, f"Bad lines: {len(mistakes)}; all others were graded"]))
    return OK


def _read(file: str) -> tuple[list[_Item], list[str]]:
    """Return the items of all good lines, and one error text for each bad line; blank lines are skipped."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a JSONL file, or - for standard input") from None
    items: list[_Item] = []
    mistakes: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            if line.strip():
                items.append(_item(parse_row(line)))
        except ValueError as error:
            mistakes.append(f"{file}:{number}: {error}")
    return items, mistakes


def _item(row: object) -> _Item:
    """Return the line's item; raise ValueError for a bad line."""
    if not isinstance(row, dict):
        raise ValueError(f"the line is {excerpt(row)}; write a JSON object with id, gold, and answer or response")
    if not isinstance(row.get("id"), str | int):
        raise ValueError(f"id is {excerpt(row.get('id'))}; write a string or a whole number")
    if ("answer" in row) == ("response" in row):
        raise ValueError(f"the line has the keys {excerpt(sorted(row))}; write either answer or response")
    gold_kind = row.get("gold_kind", "answer")
    if gold_kind not in _GOLD_KINDS:
        raise ValueError(f"gold_kind is {excerpt(gold_kind)}; write one of {', '.join(_GOLD_KINDS)}")
    gold = _text(row, "gold")
    try:
        gold = extract_gold(gold, "") if gold_kind == "answer" else extract_gold(None, gold)
    except ValueError as error:
        raise ValueError(f"gold is {excerpt(gold)}: {error}") from None
    if "answer" in row:
        return row["id"], Completion(_text(row, "answer"), None, gold)
    return row["id"], Completion(_text(row, "response"), _text({"finish_reason": "stop", **row}, "finish_reason"), gold)


def _text(row: dict[str, Any], key: str) -> str:
    if isinstance(text := row.get(key), str):
        return text
    raise ValueError(f"{key} is {excerpt(text)}; write a string" if key in row else f"{key} is missing; add it")


def _outcome(item: _Item, graded: Graded) -> dict[str, Any]:
    """Return one line of output."""
    id, completion = item
    name = graded.verdict.category
    return {
        "id": id,
        "category": name,
        "correct": None if name == "ungraded" else name == "correct",
        "format_ok": None if completion.finish_reason is None else name != "format_failure",
        "reason": graded.verdict.reason,
        "seconds": round(graded.seconds, 6),
    }


def _write(text: str, out: Path | None) -> None:
    """Write the text; after an error the file is as it was before."""
    if out is None:
        sys.stdout.write(text)
        return
    # A device or a pipe must not be replaced.
    target = out if out.exists() and not out.is_file() else out.with_name(f"{out.name}.partial")
    try:
        target.write_text(text)
        if target != out:
            target.replace(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); name another file") from None


def _table(outcomes: Sequence[dict[str, Any]], by_strict: Counter[Category]) -> Table:
    """Return a table of the counts by category, each with its reasons."""
    title = f"Lines: {len(outcomes):,}"
    if outcomes:
        slowest = max(outcomes, key=itemgetter("seconds"))
        title += f"; the slowest, {slowest['id']!r}, took {slowest['seconds']:.2g} s"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for header in ("lines", "share", "strict format"):
        table.add_column(header, justify="right")
    for name in get_args(Category):
        reasons = Counter(outcome["reason"] for outcome in outcomes if outcome["category"] == name)
        share = f"{reasons.total() / len(outcomes):.1%}" if outcomes else ""
        table.add_row(name, f"{reasons.total():,}", share, f"{by_strict[name]:,}")
        for reason, count in reasons.most_common():
            if reason:
                table.add_row(f"  {reason}", f"{count:,}")
    return table
