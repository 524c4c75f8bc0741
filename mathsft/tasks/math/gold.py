"""Reads the gold answer of a math problem from its row."""

import re

from mathsft.boxes import last_box
from mathsft.tasks.math.equality import normalise

GOLD_MARKER = "####"
"""GSM8K's marker before a gold answer."""

FINAL_SENTENCE = re.compile(r"The answer is: *(\S[^\n]*)\Z")
"""The last sentence of a response in MetaMathQA's style."""

_THOUSANDS_SEPARATOR = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


def extract_gold(answer: str | None, solution: str) -> str:
    r"""Return the gold answer: `answer` (or its text after the last ####), else the solution's last \boxed or \fbox, else
    the solution's text after its last ####, else that of its last sentence "The answer is: 42".

    Raises ValueError with the reason if no answer can be read.
    """
    if answer is None:
        gold = _gold_of_solution(solution).strip()
    else:
        gold = _after_marker(answer) if GOLD_MARKER in answer else answer.strip()
    if not gold:
        raise ValueError("the gold answer is empty")
    if not normalise(gold):
        raise ValueError("the gold answer is too long, is punctuation only or holds invisible characters")
    return gold


def _gold_of_solution(solution: str) -> str:
    boxed = last_box(solution)
    if boxed is not None:
        return boxed
    if GOLD_MARKER in solution:
        return _after_marker(solution)
    if sentence := FINAL_SENTENCE.search(solution.rstrip()):
        return _THOUSANDS_SEPARATOR.sub("", sentence[1].rstrip("."))
    raise ValueError("no answer, and the solution has neither \\boxed nor ####")


def _after_marker(text: str) -> str:
    first_line = text.rpartition(GOLD_MARKER)[2].strip().partition("\n")[0]
    return _THOUSANDS_SEPARATOR.sub("", first_line)
