"""Decides by rule whether two answers have the same value; symbolic algebra is not tried, nothing is evaluated."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from mathsft.answers.normalise import normalise, whole_text, without_text_commands
from mathsft.answers.quantities import Quantity, read_quantity, same_quantity

_MAX_NESTING = 20
_MAX_ITEMS = 50

_OPENING, _CLOSING = "([{⟨⦃", ")]}⟩⦄"
_BRACKET = r"(?P<open>[(\[{⟨⦃])|(?P<close>[)\]}⟩⦄])"
_CONJUNCTION = r"(?:(?:and|or) )?"
_WIDE_SEPARATOR = re.compile(rf"{_BRACKET}|, {_CONJUNCTION}|; ?{_CONJUNCTION}| (?:and|or) ")
_ANY_SEPARATOR = re.compile(rf"{_BRACKET}|, ?{_CONJUNCTION}|; ?{_CONJUNCTION}| (?:and|or) ")
_UNION = re.compile(rf"{_BRACKET}| ?\\cup(?![A-Za-z]) ?")

_NAME = r"\\text\{[^{}]{1,40}\}|\\[A-Za-z]{1,20}(?: [A-Za-z]{1,20})?|[A-Za-z]{1,20}|\([A-Za-z](?:, ?[A-Za-z]){1,5}\)"
_ASSIGNMENT = re.compile(
    rf"(?P<name>(?:{_NAME})(?:_[A-Za-z0-9]|')?(?:\([A-Za-z]\))?) ?(?:=|\\in(?![A-Za-z])) ?(?P<value>[^=]+)"
)
_MATRIX = re.compile(
    r"[(\[]? ?\\begin\{(?P<kind>[pbB]?matrix|smallmatrix|array)\}(?:\{[lcr| ]{0,40}\})?"
    r"(?P<cells>.*)\\end\{(?P=kind)\} ?[)\]]?"
)
_COMMA_IN_NUMBER = re.compile(r"[0-9],[0-9]{3}")
_WORDS = re.compile(r"[A-Za-z]{3,}")


@dataclass(frozen=True)
class Text:
    r"""What stands in \text{}: words, compared without case."""

    key: str


@dataclass(frozen=True)
class Expression:
    """Anything that the rules do not read, without its spaces."""

    text: str


@dataclass(frozen=True)
class Equation:
    """A value with the name that it is given: x = 4, x in [1, 2)."""

    name: str
    value: "Value"


@dataclass(frozen=True)
class Items:
    """Several values within brackets: "" for a bare list, "⦃⦄" a set, "∪" a union, "()", "[)", … tuples and intervals."""

    brackets: str
    items: tuple["Value", ...]

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "⦃⦄", "∪")


@dataclass(frozen=True)
class Matrix:
    """Rows of cells, whatever brackets stand around them."""

    rows: tuple[tuple["Value", ...], ...]


Value: TypeAlias = Quantity | Text | Expression | Equation | Items | Matrix


def equal(answer: str, gold: str) -> bool:
    """Tell whether the answer has the gold answer's value; what the rules cannot decide counts as different."""
    return decide(answer, gold) is True


def decide(answer: str, gold: str) -> bool | None:
    """Return whether two answers have the same value, None where only algebra could tell; never raises, never hangs."""
    first, second = normalise(answer), normalise(gold)
    if not first or not second:
        return False
    if first == second:
        return True
    return _any(_compare_answers(one, other) for one in _readings(first) for other in _readings(second))


def _readings(text: str) -> list[Value]:
    """Return what the text may mean: 100,200 is one number or two."""
    if _nesting(text) > _MAX_NESTING:
        return [_expression(text)]
    grouped = _read(text, commas_group=True)
    return [grouped, _read(text, commas_group=False)] if _COMMA_IN_NUMBER.search(text) else [grouped]


def _read(text: str, *, commas_group: bool) -> Value:
    """Read normalised text, whose nesting bounds the recursion."""
    if quantity := read_quantity(text, commas_group=commas_group):
        return quantity
    if words := whole_text(text):
        return read_quantity(words, commas_group=commas_group) or Text(_text_key(words))
    if matrix := _MATRIX.fullmatch(text):
        return _read_matrix(text, matrix["cells"], commas_group)
    if len(parts := _split(text, _UNION)) > 1:
        return Items("∪", tuple(_read(part, commas_group=commas_group) for part in parts))
    if len(parts := _split_list(text, commas_group)) > 1:
        return _read_list(text, parts, commas_group)
    if assignment := _ASSIGNMENT.fullmatch(text):
        return Equation(_text_key(assignment["name"]), _read(assignment["value"], commas_group=commas_group))
    if brackets := _outer_brackets(text):
        return _read_bracketed(brackets, text[1:-1].strip(), commas_group)
    return _expression(text)


def _read_list(text: str, parts: list[str], commas_group: bool) -> Value:
    """Read a bare list; the one name in "x = 1, x = 2" and "x = 1, 2" is taken off, several names stay with their values."""
    values: list[Value] = []
    for part in parts:
        value = _read(part, commas_group=commas_group)
        # Part of a list that was split at its wide separators, as "1,2" of "1,2 and 3".
        values.extend(value.items if isinstance(value, Items) and not value.brackets else [value])
    if len(values) > _MAX_ITEMS:
        return _expression(text)
    names = {value.name for value in values if isinstance(value, Equation)}
    if len(names) != 1:
        return Items("", tuple(values))
    return Equation(names.pop(), Items("", tuple(_without_name(value) for value in values)))


def _read_bracketed(brackets: str, content: str, commas_group: bool) -> Value:
    parts = _split_list(content, commas_group)
    inside = _read_list(content, parts, commas_group) if len(parts) > 1 else _read(content, commas_group=commas_group)
    if isinstance(inside, Items) and not inside.brackets:
        return Items(brackets, inside.items)
    # Redundant parentheses, and a set with a single element.
    return inside if brackets in ("()", "⦃⦄") else Items(brackets, (inside,))


def _read_matrix(text: str, cells: str, commas_group: bool) -> Value:
    if r"\begin" in cells:
        return _expression(text)
    rows = [row for row in cells.split(r"\\") if row.strip()]
    return Matrix(tuple(tuple(_read(cell.strip(), commas_group=commas_group) for cell in row.split("&")) for row in rows))


def _expression(text: str) -> Expression:
    return Expression(text.removeprefix("+").replace(" ", ""))


def _text_key(text: str) -> str:
    return without_text_commands(text).casefold().replace(" ", "").strip(".()'\"")


def _without_name(value: Value) -> Value:
    return value.value if isinstance(value, Equation) else value


def _split_list(text: str, commas_group: bool) -> list[str]:
    """Split at the separators outside brackets: only at the wide ones (", ", "and") if there are any: 1,000 stays whole."""
    wide = _split(text, _WIDE_SEPARATOR) if commas_group else [text]
    return wide if len(wide) > 1 else _split(text, _ANY_SEPARATOR)


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split where the separator matches outside brackets; the text stays whole if a part would be empty."""
    parts, start, depth = [], 0, 0
    for found in separator.finditer(text):
        if found["open"]:
            depth += 1
        elif found["close"]:
            depth -= 1
        elif depth == 0:
            parts.append(text[start : found.start()].strip())
            start = found.end()
    parts.append(text[start:].strip())
    return parts if all(parts) else [text]


def _outer_brackets(text: str) -> str | None:
    """Return the brackets that enclose the whole text, such as "[)", or None."""
    if len(text) < 3 or text[0] not in "([⟨⦃" or text[-1] not in ({"⟨": "⟩", "⦃": "⦄"}.get(text[0], ")]")):
        return None
    depth = 0
    for place, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return text[0] + text[-1] if place == len(text) - 1 else None
    return None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth = max(0, depth + (character in _OPENING) - (character in _CLOSING))
        deepest = max(deepest, depth)
    return deepest


def _compare_answers(first: Value, second: Value) -> bool | None:
    """Compare whole answers, where y = 4 and 4 say the same."""
    if isinstance(first, Equation) and isinstance(second, Equation):
        return _compare(first, second)
    return _compare(_without_name(first), _without_name(second))


def _compare(first: Value, second: Value) -> bool | None:
    if isinstance(first, Quantity) and isinstance(second, Quantity):
        return same_quantity(first, second)
    if isinstance(first, Items) and isinstance(second, Items):
        return _compare_items(first, second)
    if isinstance(first, Matrix) and isinstance(second, Matrix):
        return _compare_matrices(first, second)
    if isinstance(first, Equation) and isinstance(second, Equation):
        return _compare(first.value, second.value) if first.name == second.name else False
    if isinstance(first, Text) or isinstance(second, Text):
        return _words(first) == _words(second)
    if isinstance(first, Expression) and isinstance(second, Expression):
        return _compare_expressions(first.text, second.text)
    undecidable = (Expression, Equation)
    return None if isinstance(first, undecidable) or isinstance(second, undecidable) else False


def _words(value: Value) -> str | Value:
    """Return what a value says as words, the value itself where it is none."""
    if isinstance(value, Text):
        return value.key
    return _text_key(value.text) if isinstance(value, Expression) else value


def _compare_expressions(first: str, second: str) -> bool | None:
    are_words = _WORDS.fullmatch(first) and _WORDS.fullmatch(second)
    return True if first == second or (are_words and first.casefold() == second.casefold()) else None


def _compare_matrices(first: Matrix, second: Matrix) -> bool | None:
    if [len(row) for row in first.rows] != [len(row) for row in second.rows]:
        return False
    pairs = zip(first.rows, second.rows, strict=True)
    return _all(_compare(one, other) for row, other_row in pairs for one, other in zip(row, other_row, strict=True))


def _compare_items(first: Items, second: Items) -> bool | None:
    if len(first.items) != len(second.items):
        return False
    if first.ordered or second.ordered:
        if first.brackets != second.brackets:
            return False
        return _all(_compare(one, other) for one, other in zip(first.items, second.items, strict=True))
    if "∪" in (first.brackets, second.brackets) and first.brackets != second.brackets:
        return False
    verdicts = [[_compare(one, other) for other in second.items] for one in first.items]
    if _can_pair([[verdict is True for verdict in row] for row in verdicts]):
        return True
    return None if _can_pair([[verdict is not False for verdict in row] for row in verdicts]) else False


def _can_pair(allowed: list[list[bool]]) -> bool:
    """Tell whether each row can have an allowed column of its own (augmenting paths; Kuhn, 1955).

    Taking the first column that fits would not do: 65 % equals both 65 and 0.65.
    """
    row_of_column: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, is_allowed in enumerate(allowed[row]):
            if is_allowed and column not in tried:
                tried.add(column)
                if column not in row_of_column or place(row_of_column[column], tried):
                    row_of_column[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(allowed)))


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return False if False in seen else None if None in seen else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return True if True in seen else None if None in seen else False
