"""What an answer may be read as: the frozen types that `reading` makes and `equal` compares."""

import re
from dataclasses import dataclass
from typing import TypeAlias

from mathsft.answers.algebra import ExactValue, symbol
from mathsft.answers.normalise import without_text_commands
from mathsft.answers.quantities import BasedNumber, Quantity


@dataclass(frozen=True)
class Text:
    r"""What stands in \text{}, or is no mathematics: words, compared without case."""

    key: str


@dataclass(frozen=True)
class Unread:
    """Mathematics that the rules do not read, without its spaces."""

    text: str


@dataclass(frozen=True)
class Valueless:
    """A number that is undefined or too large to be computed, or brackets too deep to be read: nobody's answer."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A letter of a multiple choice with the answer that it stands for, as in (B) 12."""

    letter: str
    content: "ParsedAnswer"


@dataclass(frozen=True)
class Clock:
    """A time of day in minutes after midnight."""

    minutes: int


@dataclass(frozen=True)
class Named:
    """A value with the name that it is given: x = 4, x in [1, 2)."""

    name: str
    content: "ParsedAnswer"


@dataclass(frozen=True)
class Family:
    r"""One value for each integer, as π/4 + kπ with k in \mathbb{Z}."""

    letter: str
    """What the integer is called in the content: k, unless that names something else."""
    content: "ParsedAnswer"


@dataclass(frozen=True)
class Relation:
    r"""An equation or inequality between formulas: `difference` is "=", ">", "\\ge" or "\\ne" to 0."""

    sign: str
    difference: ExactValue


@dataclass(frozen=True)
class Items:
    """Several readings: "" is a bare list, "⦃⦄" a set, "∪" a union; "()", "[)", … are points and intervals.

    ":" is a ratio, "h:m" a ratio that may also be a time, as 6:15.
    """

    brackets: str
    items: tuple["ParsedAnswer", ...]

    @property
    def is_ordered(self) -> bool:
        return self.brackets not in ("", "⦃⦄", "∪")


@dataclass(frozen=True)
class Matrix:
    """Rows of cells; a determinant is another kind than a matrix, whatever brackets stand around that."""

    is_determinant: bool
    rows: tuple[tuple["ParsedAnswer", ...], ...]


ParsedAnswer: TypeAlias = (
    Quantity | BasedNumber | Text | Unread | Valueless | Choice | Clock | Named | Family | Relation | Items | Matrix
)

_ARTICLE = re.compile(r"^(?:the|an?) (?=[a-z]{2})")

INFINITY = symbol(r"\infty")
EMPTY = Items("⦃⦄", ())


def text_key(text: str) -> str:
    """Return words as they are compared: without case, spaces, a leading article and the punctuation around them."""
    return _ARTICLE.sub("", without_text_commands(text).casefold()).replace(" ", "").removesuffix(".").strip("()'\"")
