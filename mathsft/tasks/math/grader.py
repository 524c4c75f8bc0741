"""Compares answers with gold answers in two stages: the rules of `equality`, and math-verify for undecided pairs."""

import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from mathsft.boxes import BOX, closing_brace
from mathsft.tasks.math.equality import comparable, decide
from mathsft.tasks.math.sandbox import Limits, Sandbox
from mathsft.tasks.task import Pair, Ruling

_MAX_CACHED = 20_000
"""Largest number of math-verify's rulings that a grader caches."""

_LATEX = str.maketrans({"⦃": r"\{", "⦄": r"\}", "⟨": r"\langle ", "⟩": r"\rangle ", "°": r"^\circ "})
_MISREAD = re.compile(BOX.pattern + r"|[0-9)}\]] ?_|'|\\prime")
"""math-verify takes only the last of several boxes, only the 17 of 17_8, and only the f of f'."""


class MathGrader(AbstractContextManager["MathGrader"]):
    """Compares answers by value; keeps the processes of its `Sandbox` until it is closed. Use it from one thread."""

    def __init__(self, num_processes: int = 1, limits: Limits | None = None) -> None:
        self._sandbox = Sandbox(num_processes, limits)
        self._cached: dict[Pair, Ruling] = {}

    def compare(self, pairs: Sequence[Pair]) -> list[Ruling]:
        """Return a ruling for each pair, in order; the ruling on a repeated pair comes from a cache."""
        rulings = {pair: self._cached.get(pair) or _rule(pair) for pair in dict.fromkeys(pairs)}
        undecided = [pair for pair, ruling in rulings.items() if ruling.is_equal is None]
        judged = dict(zip(undecided, self._sandbox.judge([_in_latex(pair) for pair in undecided]), strict=True))
        if len(self._cached) + len(judged) > _MAX_CACHED:
            self._cached.clear()
        # Undecided pairs are not cached: on a less busy machine, the time limit may suffice.
        self._cached |= {pair: ruling for pair, ruling in judged.items() if ruling.is_equal is not None}
        rulings |= judged
        return [rulings[pair] for pair in pairs]

    def close(self) -> None:
        """End the processes."""
        self._sandbox.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def _rule(pair: Pair) -> Ruling:
    """Rule on a pair without math-verify; is_equal is None if the pair needs math-verify."""
    started = time.perf_counter()
    is_equal = decide(*pair)
    if is_equal is None and not all(map(_is_legible, _in_latex(pair))):
        is_equal = False
    return Ruling(is_equal, seconds=time.perf_counter() - started)


def _in_latex(pair: Pair) -> Pair:
    return Pair(*(text.translate(_LATEX) for text in comparable(*pair)))


def _is_legible(text: str) -> bool:
    r"""Return whether math-verify can read the text in a box as one answer; 5} or \boxed{6 would be two."""
    return text.isascii() and closing_brace(f"{{{text}}}", 0) == len(text) + 1 and not _MISREAD.search(text)
