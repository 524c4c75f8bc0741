"""Reads a row with a math problem, its solution and its gold answer.

A row has problem (or question), solution and answer, as in MATH, or an answer that contains the solution and, after `####`,
the gold answer, as in GSM8K; level and type (or subject) are optional.
"""

import math
import re

from mathsft.errors import excerpt
from mathsft.records import Problem
from mathsft.tasks.math.equality import normalise
from mathsft.tasks.math.gold import FINAL_SENTENCE, GOLD_MARKER, extract_gold
from mathsft.tasks.rows import is_blank, problem_id, problem_key, subject_of, text_of
from mathsft.tasks.task import Row, UnreadableRowError

_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's annotations for a calculator, as in `48/2 = <<48/2=24>>24`; in a training target they are noise."""

_NO_ANSWERS = {"nan", "none", "null", "n/a", "#n/a", "<na>", "proof", "notfound", "not found", "no answer", "not available"}
"""Texts that mean "no gold answer" in data sets, in any case; \\text{none} is an answer."""
_NO_ANSWER_CHARS = set("?-_.[]() ")
"""A text of only these characters is no answer, either."""

_MAX_BARE_ANSWER_CHARS = 200
"""A longer text, or one of several lines, is reasoning that ends with the gold answer, unless it contains a matrix."""


def read_row(row: Row, needs_solution: bool) -> Problem:
    """Return the row's problem; raises UnreadableRowError."""
    text, answer = text_of(row, problem_key(row)), _answer(row)
    solution = "" if is_blank(row.get("solution")) else text_of(row, "solution")
    if solution:
        gold = _gold(answer, solution)
    elif answer is not None:
        solution, gold = _solution_and_gold(answer)
    else:
        raise UnreadableRowError(f"the row has only the keys {excerpt(sorted(row))}; add its solution, or its answer")
    if needs_solution and not solution:
        raise UnreadableRowError(
            f"solution is missing, and answer is {excerpt(answer)}; write the solution before its last line, `#### gold "
            "answer`, or under the key solution"
        )
    return Problem(
        id=problem_id(text),
        problem=text,
        solution=solution,
        answer=gold,
        level=_level(row.get("level")),
        subject=subject_of(row),
    )


def _answer(row: Row) -> str | None:
    """Return the row's answer as text, or None if it has none."""
    value = row.get("answer")
    if value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return text_of(row, "answer")


def _solution_and_gold(answer: str) -> tuple[str, str]:
    """Return the solution and the gold answer in the answer of a row without a solution; the solution may be empty."""
    reasoning, marker, _ = answer.rpartition(GOLD_MARKER)
    if marker:
        return _CALCULATOR.sub("", reasoning).strip(), _gold(None, answer)
    is_prose = ("\n" in answer or len(answer) > _MAX_BARE_ANSWER_CHARS) and "\\begin{" not in answer
    if is_prose or "\\boxed" in answer or FINAL_SENTENCE.search(answer):
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
        raise UnreadableRowError(
            f"no gold answer can be read ({error}); {found}; "
            r"correct the row: the gold answer is read from answer, or from the last \boxed{...} or `#### ...` of solution"
        ) from None
    return gold


def _level(value: object) -> int | None:
    """Return the level in 3, "3", "3.0" or MATH's "Level 3"; None for any other value."""
    match = re.fullmatch(r"(?:Level )?(\d{1,3})(?:\.0+)?", str(value).strip())
    return int(match[1]) if match else None
