"""The kinds of parsed answers: frozen types that `parse_answer` makes and `equal` compares."""

import re
from dataclasses import dataclass

from mathsft.tasks.math.equality.algebra import ExactValue, symbol
from mathsft.tasks.math.equality.quantities import ParsedAnswer
from mathsft.tasks.math.equality.spelling import without_text_commands


@dataclass(frozen=True)
class Text(ParsedAnswer):
    r"""Words: the content of \text{}, or text that is no mathematics; compared without case."""

    key: str


@dataclass(frozen=True)
class Unparsed(ParsedAnswer):
    """Mathematics that the rules cannot read, without its spaces."""

    text: str


@dataclass(frozen=True)
class NoValue(ParsedAnswer):
    """An undefined number, a number too large to compute, or brackets nested too deeply: no valid answer."""

    text: str


@dataclass(frozen=True)
class Choice(ParsedAnswer):
    """The letter of a multiple choice and the answer beside it, as in (B) 12."""

    letter: str
    content: ParsedAnswer


@dataclass(frozen=True)
class TimeOfDay(ParsedAnswer):
    """A time of day in minutes after midnight."""

    minutes: int


@dataclass(frozen=True)
class Named(ParsedAnswer):
    """A value and its name, as in x = 4 or x in [1, 2)."""

    name: str
    content: ParsedAnswer


@dataclass(frozen=True)
class IntegerFamily(ParsedAnswer):
    r"""One value for each integer, as π/4 + kπ with k in \mathbb{Z}."""

    letter: str
    """The name of the integer in the content: k, unless the content uses k for something else."""
    content: ParsedAnswer


@dataclass(frozen=True)
class Relation(ParsedAnswer):
    r"""An equation or inequality of formulas: `sign` ("=", ">", "\ge" or "\ne") relates `difference` to 0."""

    sign: str
    difference: ExactValue


@dataclass(frozen=True)
class Items(ParsedAnswer):
    """Several answers. `brackets` is "" for a list, "⦃⦄" for a set, "∪" for a union, "()", "[)", … for points and intervals,

    ":" for a ratio, "h:m" for a ratio that may also be a time, as 6:15.
    """

    brackets: str
    items: tuple[ParsedAnswer, ...]


@dataclass(frozen=True)
class Matrix(ParsedAnswer):
    """Rows of cells. A determinant never equals a matrix; other brackets around a matrix do not matter."""

    is_determinant: bool
    rows: tuple[tuple[ParsedAnswer, ...], ...]


_ARTICLE = re.compile(r"^(?:the|an?) (?=[a-z]{2})")

INFINITY = symbol(r"\infty")


def text_key(text: str) -> str:
    """Return the form in which words are compared: without case, spaces, a leading article and surrounding punctuation."""
    return _ARTICLE.sub("", without_text_commands(text).casefold()).replace(" ", "").removesuffix(".").strip("()'\"")
