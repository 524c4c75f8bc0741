"""Reads problems with exact gold answers out of a JSONL file or a hub data set; which pool they are in is not decided here.

A row holds problem and solution, with answer, level and type (or subject) where there are any, as MATH has them; or question
and answer with the gold after `####`, as GSM8K has them. A row that cannot be read stops the load: nothing is left out.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mathsft.answers.response_format import extract_gold
from mathsft.errors import UserError
from mathsft.records import Problem

HUB_SOURCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
"""A hub data set: "org/name", then "/config" where the data set has several, then ":split" for another than train."""

CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's annotations, as in `48/2 = <<48/2=24>>24`: meant for a calculator, noise in a solution to learn."""


def load_problems(source: str) -> list[Problem]:
    """Return every row of a JSONL file or hub data set, in order; UserError names the first row that cannot be read."""
    path = Path(source).expanduser()
    hub = HUB_SOURCE.fullmatch(source)
    if path.is_file():
        rows = _file_rows(path)
    elif hub and path.suffix not in (".json", ".jsonl"):
        rows = _hub_rows(source, hub["repository"], hub["config"], hub["split"] or "train")
    else:
        raise UserError(
            f"problems cannot be read from {source!r}: there is no such file; give a JSONL file or a hub id (org/name)"
        )
    problems = [_problem(row, place) for place, row in rows]
    if not problems:
        raise UserError(f"{source}: the data set is empty; give one that holds at least one problem")
    return problems


def problem_id(text: str) -> str:
    """Return the id of a problem: 12 hex digits of its text's SHA-256, shared by all its solutions."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Yield (file:line, row) for every line that is not blank."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text) if text else None
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{place}: {_excerpt(line)} is not JSON ({error}); write one JSON object a line, in UTF-8"
                ) from None
            if text:
                yield place, row


def _hub_rows(source: str, repository: str, config: str | None, split: str) -> Iterator[tuple[str, object]]:
    """Yield (source:row, row) of a data set that the library `datasets` fetches."""
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise UserError(
            f"{source!r} is not a file here, and hub data sets need the package datasets, which is not installed: "
            "run `uv pip install datasets`, or the same with pip, or give a JSONL file"
        ) from None
    try:
        rows = datasets.load_dataset(repository, config, split=split)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source!r} is not a file here, and the hub gave no data set ({_excerpt(error)}); give a JSONL file, "
            "or org/name[/config][:split] of a data set that this machine can reach"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{source}:{number}", row


def _problem(row: object, place: str) -> Problem:
    if not isinstance(row, dict):
        raise UserError(
            f"{place}: the row is {_excerpt(row)}; write a JSON object with problem and solution, or question and answer"
        )
    if "problem" in row:
        text, solution = _text(row, "problem", place), _text(row, "solution", place)
        gold = _gold(_answer(row, place), solution, place)
    elif "question" in row:
        text, worked = _text(row, "question", place), _text(row, "answer", place)
        gold = _gold(None, worked, place)
        solution = CALCULATOR.sub("", worked.rpartition("####")[0]).strip()
        if not solution:
            raise UserError(
                f"{place}: answer is {_excerpt(worked)}; write the solution before its last line, `#### gold answer`"
            )
    else:
        raise UserError(
            f"{place}: the row has the keys {sorted(row)}; it needs problem and solution, or question and answer"
        )
    subject = row.get("type", row.get("subject"))
    return Problem(
        id=problem_id(text),
        problem=text,
        solution=solution,
        answer=gold,
        level=_level(row, place),
        subject=None if subject is None else str(subject),
    )


def _text(row: dict[str, Any], key: str, place: str) -> str:
    """Return the row's text under the key, without white space around it."""
    if key not in row:
        raise UserError(f"{place}: {key} is missing, the row has only {sorted(row)}; add it")
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {key} is {_excerpt(value)}; write a text that is not empty")
    try:
        value.encode()  # JSON can smuggle in half a surrogate pair, which no tokenizer and no hash takes
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: {key} holds half of a surrogate pair, in {_excerpt(value)}; write the whole character"
        ) from None
    return value.strip()


def _answer(row: dict[str, Any], place: str) -> str | None:
    """Return the row's gold answer as text, None where it has to come out of the solution."""
    value = row.get("answer")
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else _text(row, "answer", place)


def _gold(answer: str | None, solution: str, place: str) -> str:
    try:
        return extract_gold(answer, solution)
    except ValueError as error:
        found = f"the solution ends with {_excerpt(solution[-60:])}" if answer is None else f"answer is {_excerpt(answer)}"
        raise UserError(
            f"{place}: no gold answer can be read ({error}); {found}; "
            r"mend the row: the gold is its answer, or the last \boxed{...} or `#### ...` of its solution"
        ) from None


def _level(row: dict[str, Any], place: str) -> int | None:
    value = row.get("level")
    if value is None or value == "Level ?":  # so say three problems of MATH
        return None
    match = re.fullmatch(r"(?:Level )?(\d{1,3})", str(value))
    if match is None:
        raise UserError(
            f"{place}: level is {_excerpt(value)}; write a number (3) or MATH's words (Level 3), or leave it out"
        )
    return int(match[1])


def _excerpt(value: object) -> str:
    """Return a value for one line of an error message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
