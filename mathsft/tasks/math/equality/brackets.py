"""Finds the brackets of normalised text, and splits it outside them."""

import re
from itertools import accumulate

BRACKET = r"[(\[{⟨⦃)\]}⟩⦄]"
"""The regular expression with which the separators of `split_outside_brackets` begin."""
_OPENING, _CLOSING = "([{⟨⦃", ")]}⟩⦄"


def split_outside_brackets(text: str, bracket_or_separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Return the parts of the text between the separators outside brackets, and these separators, all stripped."""
    parts, separators, start, depth = [], [], 0, 0
    for found in bracket_or_separator.finditer(text):
        if found[0] in _OPENING + _CLOSING:
            depth += 1 if found[0] in _OPENING else -1
        elif depth == 0:
            parts.append(text[start : found.start()].strip())
            separators.append(found[0].strip())
            start = found.end()
    return [*parts, text[start:].strip()], separators


def outer_brackets(text: str) -> str | None:
    """Return the brackets that enclose the whole text, such as "[)", or None."""
    if len(text) < 3 or text[0] not in "([⟨⦃" or text[-1] not in ({"⟨": "⟩", "⦃": "⦄"}.get(text[0], ")]")):
        return None
    *inside, last = _depths(text)
    return text[0] + text[-1] if all(inside) and last == 0 else None


def nesting(text: str) -> int:
    """Return how deep brackets are nested."""
    return max(_depths(text), default=0)


def _depths(text: str) -> list[int]:
    """Return the number of open brackets after each character; a bracket that closes none does not count."""
    steps = ((character in _OPENING) - (character in _CLOSING) for character in text)
    return list(accumulate(steps, lambda depth, step: max(0, depth + step), initial=0))[1:]
