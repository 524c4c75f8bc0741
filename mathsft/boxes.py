r"""Finds \boxed{…} and \fbox{…} in LaTeX text."""

import re

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
"""The command of a box; its content, usually in braces, follows."""

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MATHS_ENDS = re.compile(r"\$|\\\)|\\\]|\n")


def closing_brace(text: str, opening: int) -> int | None:
    """Return the position of the brace that closes the one at `opening`, or None; escaped braces do not count."""
    depth = 0
    for brace in _BRACE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def last_box(text: str) -> str | None:
    r"""Return the content of the last box, or None without a box; raises ValueError if its braces are not closed.

    Without braces, as in "\boxed 79$", TeX would box only the 7, but authors mean the rest of the formula.
    """
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text.startswith("{", start):
        end = closing_brace(text, start)
        if end is None:
            raise ValueError("the braces of the last \\boxed are not closed")
        return text[start + 1 : end]
    maths_end = _MATHS_ENDS.search(text, start)
    if maths_end and maths_end[0] != "\n":
        return text[start : maths_end.start()]
    first_word = text[start:].split(maxsplit=1)[:1]
    return "".join(first_word).rstrip(".,;")
