"""Turns completions into verdicts: format first, then equality by rule, then, for the few pairs left undecided, by algebra.

The format is `response_format`'s business, the rules are `equal`'s, and algebra runs in `sandbox`'s processes.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mathsft.answers.equal import comparable, decide
from mathsft.answers.normalise import closing_brace
from mathsft.answers.response_format import parse
from mathsft.answers.sandbox import Limits, Pair, Ruling, Sandbox
from mathsft.records import Category, Verdict

_MAX_KNOWN = 20_000
"""Pairs judged by algebra that a grader remembers."""

_LATEX = str.maketrans({"⦃": r"\{", "⦄": r"\}", "⟨": r"\langle ", "⟩": r"\rangle ", "°": r"^\circ "})
_MISREAD = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])|[0-9)}\]] ?_|'|\\prime")
"""Of several boxes math-verify takes the last, of 17_8 the 17, and of f' the f."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote, why it stopped, and the answer that it should have given."""

    text: str
    finish_reason: str
    gold: str


@dataclass(frozen=True)
class Graded:
    """What became of a completion."""

    verdict: Verdict
    """By the lenient format rule."""
    tag_flags: tuple[str, ...]
    is_strict: bool
    seconds: float
    """What comparing its answer took, also where another completion had given the same answer before."""


class Grader:
    """Grades; holds processes once algebra was needed, until it is closed. For one thread, as `Sandbox` is."""

    def __init__(self, num_processes: int = 1, limits: Limits | None = None) -> None:
        self._sandbox = Sandbox(num_processes, limits)
        self._known: dict[Pair, Ruling] = {}

    def grade(self, completions: Sequence[Completion]) -> list[Graded]:
        """Return what became of each completion, in order; nothing that a model writes makes it raise or hang."""
        parsed = [parse(completion.text, completion.finish_reason) for completion in completions]
        pairs = [
            Pair(one.body, completion.gold)
            for one, completion in zip(parsed, completions, strict=True)
            if one.body is not None
        ]
        rulings = iter(self.compare(pairs))
        graded = []
        for one in parsed:
            if one.body is None:
                verdict, seconds = Verdict("format_failure", one.reason), 0.0
            else:
                ruling = next(rulings)
                verdict, seconds = Verdict(category(ruling), ruling.reason, one.body), ruling.seconds
            graded.append(Graded(verdict, one.tag_flags, one.is_strict, seconds))
        return graded

    def compare(self, pairs: Sequence[Pair]) -> list[Ruling]:
        """Return a ruling for each answer and its gold, in order; a pair that comes again is not judged again."""
        rulings = {pair: self._known.get(pair) or _rule(pair) for pair in dict.fromkeys(pairs)}
        undecided = [pair for pair, ruling in rulings.items() if ruling.is_equal is None]
        judged = dict(zip(undecided, self._sandbox.judge([_in_latex(pair) for pair in undecided]), strict=True))
        if len(self._known) + len(judged) > _MAX_KNOWN:
            self._known.clear()
        # The next time a stopped process may have a less busy machine.
        self._known |= {pair: ruling for pair, ruling in judged.items() if ruling.is_equal is not None}
        rulings |= judged
        return [rulings[pair] for pair in pairs]

    def close(self) -> None:
        """End the processes."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def category(ruling: Ruling) -> Category:
    """Return what an answer with this ruling counts as."""
    if ruling.is_equal is None:
        return "ungraded"
    return "correct" if ruling.is_equal else "wrong_answer"


def _rule(pair: Pair) -> Ruling:
    """Rule on a pair without algebra; is_equal is None where that is not enough."""
    started = time.perf_counter()
    is_equal = decide(pair.answer, pair.gold)
    if is_equal is None:
        in_latex = _in_latex(pair)
        is_equal = None if _is_legible(in_latex.answer) and _is_legible(in_latex.gold) else False
    return Ruling(is_equal, seconds=time.perf_counter() - started)


def _in_latex(pair: Pair) -> Pair:
    return Pair(*(text.translate(_LATEX) for text in comparable(pair.answer, pair.gold)))


def _is_legible(text: str) -> bool:
    r"""Tell whether math-verify may read it, and as one answer when it stands in a box: 5} or \boxed{6 would be two."""
    return text.isascii() and closing_brace(f"{{{text}}}", 0) == len(text) + 1 and not _MISREAD.search(text)
