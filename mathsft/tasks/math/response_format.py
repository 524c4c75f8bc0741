"""Defines the response format: renders training targets, parses responses, extracts gold answers from data rows."""

import re
from dataclasses import dataclass

from mathsft.tasks.math.equality.normalise import BOX, closing_brace, normalise

_THINK_CLOSE = "</think>"
_ANSWER_OPEN = "<answer>"
_ANSWER_CLOSE = "</answer>"
TAGS = ("<think>", _THINK_CLOSE, _ANSWER_OPEN, _ANSWER_CLOSE)
_STRICT_JOINT = f"{_THINK_CLOSE} {_ANSWER_OPEN}"
GOLD_MARKER = "####"
"""GSM8K's marker before a gold answer."""

_MATHS_ENDS = re.compile(r"\$|\\\)|\\\]|\n")
_THOUSANDS_SEPARATOR = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


@dataclass(frozen=True)
class ParsedResponse:
    """A completion, parsed by the response format."""

    reason: str
    """Why the format failed; empty if it holds."""
    body: str | None
    """The trimmed text between the answer tags; None if the format failed."""
    tag_flags: tuple[str, ...]
    is_strict: bool
    """The format holds, with exactly one space between </think> and <answer>, as the published figures demand."""


def render_target(solution: str, answer: str) -> str:
    """Return the completion to train on, without EOS; `extract_gold` must have checked both parts for tags."""
    return f" {solution} {_THINK_CLOSE} {_ANSWER_OPEN} {answer} {_ANSWER_CLOSE}"


def parse_response(text: str, finish_reason: str | None) -> ParsedResponse:
    """Parse a completion, which begins inside the think block that the prompt opened; without finish_reason, an answer."""
    if finish_reason is None:
        return ParsedResponse("", text, (), is_strict=True)
    flags = tag_flags(text)
    before_close, close, _ = text.partition(_ANSWER_CLOSE)
    _, *after_thinking = before_close.split(_THINK_CLOSE)
    answer_block = after_thinking[0].lstrip() if close and len(after_thinking) == 1 else ""
    body = answer_block.removeprefix(_ANSWER_OPEN)
    if body == answer_block or any(tag in body for tag in TAGS):
        # `tag_flags` returns its flags in order of priority.
        reason = "incomplete_generation" if finish_reason == "length" else next(iter(flags), "malformed")
        return ParsedResponse(reason, None, flags, is_strict=False)
    return ParsedResponse("", body.strip(), flags, is_strict=_STRICT_JOINT in before_close)


def tag_flags(text: str) -> tuple[str, ...]:
    """Return all of missing_think_close, missing_answer_open, missing_answer_close and wrong_order that apply.

    wrong_order compares the first occurrences of the tags that are present.
    """
    first_places = {
        "missing_think_close": text.find(_THINK_CLOSE),
        "missing_answer_open": text.find(_ANSWER_OPEN),
        "missing_answer_close": text.find(_ANSWER_CLOSE),
    }
    missing = tuple(flag for flag, place in first_places.items() if place < 0)
    present = [place for place in first_places.values() if place >= 0]
    return missing if present == sorted(present) else (*missing, "wrong_order")


def extract_gold(answer: str | None, solution: str) -> str:
    r"""Return the gold answer: `answer` (or its text after the last ####), else the solution's last \boxed or \fbox, else
    the solution's text after its last ####.

    Raises ValueError with the reason if no answer can be read, or if a tag in the row would break its training target.
    """
    if answer is None:
        gold = _gold_of_solution(solution).strip()
    else:
        gold = _after_marker(answer) if GOLD_MARKER in answer else answer.strip()
    if not gold:
        raise ValueError("the gold answer is empty")
    if not normalise(gold):
        raise ValueError("the gold answer is too long, is punctuation only or holds invisible characters")
    for tag in TAGS:
        if tag in gold:
            raise ValueError(f"the gold answer holds the tag {tag}")
    for tag in (_THINK_CLOSE, _ANSWER_CLOSE):
        if tag in solution:
            raise ValueError(f"the solution holds the tag {tag}")
    return gold


def _gold_of_solution(solution: str) -> str:
    boxes = list(BOX.finditer(solution))
    if boxes:
        return _boxed(solution, boxes[-1].end())
    if GOLD_MARKER not in solution:
        raise ValueError("no answer, and the solution has neither \\boxed nor ####")
    return _after_marker(solution)


def _after_marker(text: str) -> str:
    first_line = text.rpartition(GOLD_MARKER)[2].strip().partition("\n")[0]
    return _THOUSANDS_SEPARATOR.sub("", first_line)


def _boxed(solution: str, start: int) -> str:
    if solution.startswith("{", start):
        end = closing_brace(solution, start)
        if end is None:
            raise ValueError("the braces of the last \\boxed are not closed")
        return solution[start + 1 : end]
    # "\boxed 79$": TeX would box only the 7, but authors mean the rest of the formula.
    maths_end = _MATHS_ENDS.search(solution, start)
    if maths_end and maths_end[0] != "\n":
        return solution[start : maths_end.start()]
    first_word = solution[start:].split(maxsplit=1)[:1]
    return "".join(first_word).rstrip(".,;")
