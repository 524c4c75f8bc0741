"""Reads problems with exact gold answers from the rows of a data set.

A row has problem (or question), solution and answer, as in MATH, or an answer that contains the solution and, after `####`,
the gold answer, as in GSM8K; level and type (or subject) are optional. Unreadable rows raise an error or are counted.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mathsft.data.raw_rows import excerpt, read_rows
from mathsft.errors import UserError
from mathsft.records import Problem
from mathsft.tasks.math.equality.normalise import normalise
from mathsft.tasks.math.response_format import GOLD_MARKER, extract_gold
from mathsft.tasks.rows import problem_id

_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's annotations for a calculator, as in `48/2 = <<48/2=24>>24`; in a training target they are noise."""

_NO_ANSWERS = {"nan", "none", "null", "n/a", "#n/a", "<na>", "proof", "notfound", "not found", "no answer", "not available"}
"""Texts that mean "no gold answer" in data sets, in any case; \\text{none} is an answer."""
_NO_ANSWER_CHARS = set("?-_.[]() ")
"""A text of only these characters is no answer, either."""

_MAX_BARE_ANSWER_CHARS = 200
"""A longer text, or one of several lines, is reasoning that ends with the gold answer, unless it contains a matrix."""

_MAX_SHOWN = 5


Rows: TypeAlias = dict[int, Problem]
"""Problems by the number of their row in the data set, from 1."""


@dataclass(frozen=True)
class DataSetRows:
    """The readable rows of a data set, and the number of unreadable ones."""

    source: str
    rows: Rows
    num_unreadable: int = 0
    first_unreadable: str = ""
    """Where the first unreadable row is, and why it cannot be read."""

    @property
    def problems(self) -> list[Problem]:
        return list(self.rows.values())


class _UnreadableError(Exception):
    """The row has no problem with a gold answer; the message gives the reason and what to change."""


def load_problems(
    source: str, unreadable: Literal["error", "drop"] = "error", *, need_solutions: bool = True
) -> DataSetRows:
    """Return the rows of a JSONL file or hub data set, in order; without `need_solutions`, solutions may be empty.

    Raises UserError if there is no readable row, or if unreadable rows are an error; it counts these and names the first.
    """
    rows: Rows = {}
    unreadable_numbers: list[int] = []
    first_unreadable = ""
    for number, row in read_rows(source):
        try:
            rows[number] = _problem(row, need_solutions)
        except _UnreadableError as error:
            unreadable_numbers.append(number)
            first_unreadable = first_unreadable or f"{source}:{number}: {error}"
    if unreadable_numbers and (unreadable == "error" or not rows):
        raise UserError(first_unreadable + _others(unreadable_numbers[1:], len(rows)))
    if not rows:
        raise UserError(f"{source}: the data set is empty; give one that holds at least one problem")
    return DataSetRows(source, rows, len(unreadable_numbers), first_unreadable)


def _others(numbers: list[int], num_readable: int) -> str:
    """Return the part of the message with the other unreadable rows, and the setting that leaves them out."""
    counts = ""
    if numbers:
        shown = ", ".join(map(str, numbers[:_MAX_SHOWN])) + (", …" if len(numbers) > _MAX_SHOWN else "")
        counts = f"; {len(numbers) + 1:,} of {len(numbers) + 1 + num_readable:,} rows cannot be read, also {shown}"
    return f"{counts}; data.unreadable: drop leaves such rows out" if num_readable else counts


def _problem(row: object, needs_solution: bool) -> Problem:
    if not isinstance(row, dict):
        raise _UnreadableError(f"the row is {excerpt(row)}; write a JSON object with problem, solution and answer")
    key = next((key for key in ("problem", "question") if key in row), None)
    if key is None:
        raise _UnreadableError(
            f"the row has the keys {excerpt(sorted(row))}; it needs problem and solution, or question and answer"
        )
    text, answer = _text(row, key), _answer(row)
    solution = "" if _is_blank(row.get("solution")) else _text(row, "solution")
    if solution:
        gold = _gold(answer, solution)
    elif answer is not None:
        solution, gold = _solution_and_gold(answer)
    else:
        raise _UnreadableError(f"the row has only the keys {excerpt(sorted(row))}; add its solution, or its answer")
    if needs_solution and not solution:
        raise _UnreadableError(
            f"solution is missing, and answer is {excerpt(answer)}; write the solution before its last line, `#### gold "
            "answer`, or under the key solution"
        )
    subject = row.get("type", row.get("subject"))
    return Problem(
        id=problem_id(text),
        problem=text,
        solution=solution,
        answer=gold,
        level=_level(row.get("level")),
        subject=None if subject is None else str(subject).encode(errors="replace").decode(),
    )


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(row: dict[str, Any], key: str) -> str:
    """Return the row's text under the key, without white space around it."""
    value = row[key]
    if not isinstance(value, str) or _is_blank(value):
        raise _UnreadableError(f"{key} is {excerpt(value)}; write a text that is not empty")
    try:
        value.encode()  # JSON can contain half of a surrogate pair, which neither tokenizers nor hashes accept
    except UnicodeEncodeError:
        raise _UnreadableError(
            f"{key} holds half of a surrogate pair, in {excerpt(value)}; write the whole character"
        ) from None
    return value.strip()


def _answer(row: dict[str, Any]) -> str | None:
    """Return the row's answer as text, or None if it has none."""
    value = row.get("answer")
    if value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return _text(row, "answer")


def _solution_and_gold(answer: str) -> tuple[str, str]:
    """Return the solution and the gold answer in the answer of a row without a solution; the solution may be empty."""
    reasoning, marker, _ = answer.rpartition(GOLD_MARKER)
    if marker:
        return _CALCULATOR.sub("", reasoning).strip(), _gold(None, answer)
    is_prose = ("\n" in answer or len(answer) > _MAX_BARE_ANSWER_CHARS) and "\\begin{" not in answer
    if is_prose or "\\boxed" in answer:
        return answer, _gold(None, answer)
    return "", _gold(answer, "")


def _gold(answer: str | None, solution: str) -> str:
    try:
        gold = extract_gold(answer, solution)
        bare = normalise(gold)
        if bare.casefold() in _NO_ANSWERS or not set(bare) - _NO_ANSWER_CHARS:
            raise ValueError(f"{gold!r} means that there is no answer")
    except ValueError as error:
        found = f"the solution ends with {excerpt(solution[-60:])}" if answer is None else f"answer is {excerpt(answer)}"
        raise _UnreadableError(
            f"no gold answer can be read ({error}); {found}; "
            r"correct the row: the gold answer is read from answer, or from the last \boxed{...} or `#### ...` of solution"
        ) from None
    return gold


def _level(value: object) -> int | None:
    """Return the level in 3, "3", "3.0" or MATH's "Level 3"; None for any other value."""
    match = re.fullmatch(r"(?:Level )?(\d{1,3})(?:\.0+)?", str(value).strip())
    return int(match[1]) if match else None
