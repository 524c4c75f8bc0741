"""mathsft grade: grades a file of answers or responses, without a study or a model."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from mathsft.answers.grader import Completion, Graded, Grader, category
from mathsft.answers.response_format import extract_gold
from mathsft.answers.sandbox import Pair, Ruling
from mathsft.errors import OK, UserError
from mathsft.records import Category

NUM_AT_ONCE = 500
"""Lines between two updates of the progress bar."""

MAX_MISTAKES = 10
"""Number of bad lines that are shown; further ones are only counted."""

GOLD_KINDS = ("answer", "math_solution", "gsm8k_solution")


@dataclass(frozen=True)
class Item:
    """One line of input with its extracted gold answer."""

    id: str | int
    gold: str
    text: str
    finish_reason: str | None
    """None for a bare answer, which has no format."""


@dataclass(frozen=True)
class Outcome:
    """One line of output."""

    id: str | int
    category: Category
    correct: bool | None
    format_ok: bool | None
    reason: str
    seconds: float


def run(arguments: argparse.Namespace) -> int:
    """Grade the file's lines, write one verdict per line, and print the counts by category.

    All good lines are graded; then UserError names the bad lines.
    """
    console = Console(stderr=True, highlight=False)
    out = Path(arguments.out) if arguments.out else None
    if out and (out.is_dir() or not os.access(out.parent, os.W_OK)):
        raise UserError(f"--out {out}: no file can be written there; name another file")
    items, mistakes = _read(arguments.file)
    outcomes: list[Outcome] = []
    strict: list[Category] = []
    with Grader(num_processes=len(os.sched_getaffinity(0))) as grader:
        for start in track(
            range(0, len(items), NUM_AT_ONCE), "Grading", console=console, transient=True, disable=not console.is_terminal
        ):
            for outcome, strict_outcome in _judge(grader, items[start : start + NUM_AT_ONCE]):
                outcomes.append(outcome)
                strict.append(strict_outcome)
    _write("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes), out)
    console.print(_table(outcomes, strict))
    if mistakes:
        shown = mistakes[:MAX_MISTAKES]
        more = [f"… and {len(mistakes) - MAX_MISTAKES} more"] if len(mistakes) > MAX_MISTAKES else []
        raise UserError("\n".join([*shown, *more, f"Bad lines: {len(mistakes)}; all others were graded"]))
    return OK


def _read(file: str) -> tuple[list[Item], list[str]]:
    """Return the items of all good lines, and one error text for each bad line; blank lines are skipped."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a JSONL file, or - for standard input") from None
    items: list[Item] = []
    mistakes: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            if line.strip():
                items.append(_item(_json(line)))
        except ValueError as error:
            mistakes.append(f"{file}:{number}: {error}")
    return items, mistakes


def _json(line: bytes) -> object:
    try:
        row: object = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_excerpt(line)} is not JSON ({error}); write one JSON object per line, in UTF-8") from None
    return row


def _item(row: object) -> Item:
    """Return the line's item; raise ValueError for a bad line."""
    if not isinstance(row, dict):
        raise ValueError(f"the line is {_excerpt(row)}; write a JSON object with id, gold, and answer or response")
    if not isinstance(row.get("id"), str | int):
        raise ValueError(f"id is {_excerpt(row.get('id'))}; write a string or a whole number")
    if ("answer" in row) == ("response" in row):
        raise ValueError(f"the line has the keys {_excerpt(sorted(row))}; write either answer or response")
    gold_kind = row.get("gold_kind", "answer")
    if gold_kind not in GOLD_KINDS:
        raise ValueError(f"gold_kind is {_excerpt(gold_kind)}; write one of {', '.join(GOLD_KINDS)}")
    gold = _text(row, "gold")
    try:
        gold = extract_gold(gold, "") if gold_kind == "answer" else extract_gold(None, gold)
    except ValueError as error:
        raise ValueError(f"gold is {_excerpt(gold)}: {error}") from None
    if "answer" in row:
        return Item(row["id"], gold, _text(row, "answer"), None)
    return Item(row["id"], gold, _text(row, "response"), _text({"finish_reason": "stop", **row}, "finish_reason"))


def _text(row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"{key} is {_excerpt(row[key])}; write a string" if key in row else f"{key} is missing; add it")
    text: str = row[key]
    return text


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _judge(grader: Grader, items: Sequence[Item]) -> Iterator[tuple[Outcome, Category]]:
    """Yield each item's outcome, and its category under the strict format rule."""
    graded = iter(
        grader.grade(
            [Completion(item.text, item.finish_reason, item.gold) for item in items if item.finish_reason is not None]
        )
    )
    rulings = iter(grader.compare([Pair(item.text, item.gold) for item in items if item.finish_reason is None]))
    for item in items:
        yield _of_answer(item, next(rulings)) if item.finish_reason is None else _of_response(item, next(graded))


def _of_answer(item: Item, ruling: Ruling) -> tuple[Outcome, Category]:
    name = category(ruling)
    return Outcome(item.id, name, ruling.is_equal, None, ruling.reason, round(ruling.seconds, 6)), name


def _of_response(item: Item, graded: Graded) -> tuple[Outcome, Category]:
    name = graded.verdict.category
    correct = None if name == "ungraded" else name == "correct"
    reason, seconds = graded.verdict.reason, round(graded.seconds, 6)
    outcome = Outcome(item.id, name, correct, name != "format_failure", reason, seconds)
    return outcome, name if graded.is_strict else "format_failure"


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


def _table(outcomes: Sequence[Outcome], strict: Sequence[Category]) -> Table:
    """Return a table of the counts by category, each with its reasons."""
    slowest = max(outcomes, key=lambda outcome: outcome.seconds, default=None)
    title = f"Lines: {len(outcomes):,}" + (f"; the slowest, {slowest.id!r}, took {slowest.seconds:.2g} s" if slowest else "")
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for header in ("lines", "share", "strict format"):
        table.add_column(header, justify="right")
    by_category, by_strict = Counter(outcome.category for outcome in outcomes), Counter(strict)
    for name in get_args(Category):
        num_lines = by_category[name]
        share = f"{num_lines / len(outcomes):.1%}" if outcomes else ""
        table.add_row(name, f"{num_lines:,}", share, f"{by_strict[name]:,}")
        reasons = Counter(outcome.reason for outcome in outcomes if outcome.category == name and outcome.reason)
        for reason, count in reasons.most_common():
            table.add_row(f"  {reason}", f"{count:,}")
    return table
