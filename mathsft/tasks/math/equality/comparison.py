"""Decides by rules whether two answers have the same value; pairs that need more algebra than the rules stay undecided."""

import re
from collections.abc import Iterable
from itertools import chain

from mathsft.tasks.math.equality.algebra import same_value
from mathsft.tasks.math.equality.parse_answer import parsed_answers
from mathsft.tasks.math.equality.polynomials import CannotComputeError, NoValueError
from mathsft.tasks.math.equality.quantities import BasedNumber, ParsedAnswer, Quantity, same_based_number, same_quantity
from mathsft.tasks.math.equality.relations import as_relation, same_relation
from mathsft.tasks.math.equality.sentences import without_sentence
from mathsft.tasks.math.equality.spelling import normalise
from mathsft.tasks.math.equality.structures import (
    Choice,
    IntegerFamily,
    Items,
    Matrix,
    Named,
    NoValue,
    Relation,
    Text,
    TimeOfDay,
    Unparsed,
    text_key,
)

_HALF_A_DAY = 12 * 60
_NUMBERED = re.compile(r"(?P<letter>\\?[A-Za-z]+)_\{[0-9]+\}")


def equal(answer: str, gold: str) -> bool:
    """Return whether the answer has the gold answer's value; a pair that the rules cannot decide counts as different."""
    return decide(answer, gold) is True


def decide(answer: str, gold: str) -> bool | None:
    """Return whether two answers have the same value, or None if the rules cannot decide; never raises, never hangs."""
    first, second = comparable(answer, gold)
    if not first or not second:
        return False
    if first == second:
        return True
    verdicts = {_compare_or_none(left, right) for left in parsed_answers(first) for right in parsed_answers(second)}
    return True if True in verdicts else None if None in verdicts else False


def is_number(answer: str) -> bool:
    """Return whether the answer is a number, with or without a unit or a base."""
    return any(
        isinstance(parsed, BasedNumber) or (isinstance(parsed, Quantity) and not parsed.value.symbols)
        for parsed in parsed_answers(normalise(answer))
    )


def comparable(answer: str, gold: str) -> tuple[str, str]:
    """Return both normalised; a single sentence is reduced to the answer in it; a text that is no answer becomes ""."""
    first, second = normalise(answer), normalise(gold)
    bare, other_bare = without_sentence(first), without_sentence(second)
    # Two sentences may be about different things.
    return (first, second) if bare != first and other_bare != second else (bare, other_bare)


def _compare_or_none(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    """Compare whole answers; None if both could be parsed but comparing them is beyond the exact arithmetic."""
    try:
        return _compare_answers(first, second)
    except (CannotComputeError, NoValueError):
        return None


def _compare_answers(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    """Compare whole answers: here y = 4 and 4 are equal, but not inside a list."""
    if isinstance(first, IntegerFamily) and isinstance(second, IntegerFamily):
        return _compare_answers(first.content, second.content) if first.letter == second.letter else False
    numbered, other_numbered = _numbered_values(first), _numbered_values(second)
    # If both are numbered lists, or one is a point, each value has its own position.
    if bool(numbered) != bool(other_numbered) and not (_is_point(first) or _is_point(second)):
        first, second = numbered or first, other_numbered or second
    if isinstance(first, Named | Relation) and isinstance(second, Named | Relation):
        return _compare(first, second)
    first, second = _without_name(first), _without_name(second)
    if _is_point(second):
        first = _as_point(first) or first
    if _is_point(first):
        second = _as_point(second) or second
    return _compare(first, second)


def _compare(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    if type(first) is not type(second):
        return _compare_mixed(first, second)
    if isinstance(first, Quantity) and isinstance(second, Quantity):
        return _same_word(first.source, second.source) or same_quantity(first, second)
    if isinstance(first, BasedNumber) and isinstance(second, BasedNumber):
        return same_based_number(first, second)
    if isinstance(first, Items) and isinstance(second, Items):
        return _compare_items(first, second)
    if isinstance(first, Matrix) and isinstance(second, Matrix):
        return _compare_matrices(first, second)
    if isinstance(first, Named) and isinstance(second, Named):
        return _compare_named(first, second)
    if isinstance(first, Relation) and isinstance(second, Relation):
        return same_relation(first, second)
    if isinstance(first, Choice) and isinstance(second, Choice):
        return first.letter == second.letter
    return True if first == second else None if isinstance(first, Unparsed) else False


def _same_word(first: str, second: str) -> bool:
    """Return whether both are the same letters in any case: "Yes" is parsed as a product of symbols, too."""
    return len(first) > 1 and first.isalpha() and first.casefold() == second.casefold()


def _compare_mixed(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    """Compare answers of two kinds, in either order."""
    for left, right in ((first, second), (second, first)):
        match left, right:
            case Text(), Unparsed():
                return left.key == text_key(right.text)
            case NoValue(), _:
                return False
            case BasedNumber(), Quantity():
                return same_based_number(left, right)
            case Text(), Quantity():
                return left.key.isalpha() and left.key == text_key(right.source)
            case Choice(), Text():
                return left.letter == right.key or _compare(left.content, right)
            case Choice(), Quantity() if left.letter == text_key(right.source):
                return True
            case Choice(), _:
                # Keep the order of the two: if one may be a ratio or a time, the gold answer decides.
                return _compare(*(side.content if isinstance(side, Choice) else side for side in (first, second)))
            case TimeOfDay(), _:
                return _compare_time(left, right)
            case Named(), Relation():
                relation = as_relation(left)
                return same_relation(relation, right) if relation else False
            case Items(":" | "h:m", (Quantity() as upper, Quantity() as lower)), Quantity():
                return False if _has_zero(left) else same_value(upper.value, lower.value * right.value)
            case Items("()"), Matrix() if all(len(row) == 1 for row in right.rows):
                return _compare_items(left, Items("()", tuple(row[0] for row in right.rows)))
            case Items("[]" | "()", rows), Matrix():
                cells = tuple(row.items for row in rows if isinstance(row, Items))
                return len(cells) == len(rows) and _compare_matrices(Matrix(False, cells), right)
            case Items("⦃⦄", (single,)), _ if not isinstance(right, Items):
                return _compare(single, right)
    return None if isinstance(first, Unparsed) or isinstance(second, Unparsed) else False


def _compare_named(first: Named, second: Named) -> bool | None:
    if first.name.casefold() == second.name.casefold():
        return _compare(first.content, second.content)
    left, right = as_relation(first), as_relation(second)
    # y = 2x equals x = y/2, but y = 4 does not equal x = 4.
    return same_relation(left, right) if left and right and len(left.difference.symbols) > 1 else False


def _compare_time(time: TimeOfDay, other: ParsedAnswer) -> bool:
    """Compare with a time such as 3:45, which may leave out a.m. or p.m."""
    items = other.items if isinstance(other, Items) and other.brackets == "h:m" else ()
    numbers = [item.value.rational for item in items if isinstance(item, Quantity)]
    if len(numbers) != 2 or None in numbers:
        return False
    hour, minute = (int(number or 0) for number in numbers)
    minutes = 60 * hour + minute
    return minutes == time.minutes or (hour <= 12 and (minutes - time.minutes) % _HALF_A_DAY == 0)


def _compare_matrices(first: Matrix, second: Matrix) -> bool | None:
    if first.is_determinant != second.is_determinant or list(map(len, first.rows)) != list(map(len, second.rows)):
        return False
    return _all(map(_compare, chain(*first.rows), chain(*second.rows)))


def _compare_items(first: Items, second: Items) -> bool | None:
    if len(first.items) != len(second.items):
        return False
    if ":" in first.brackets and ":" in second.brackets:
        return _compare_ratios(first, second)
    if first.brackets != second.brackets and {first.brackets, second.brackets} != {"", "⦃⦄"}:
        return False
    if first.brackets not in ("", "⦃⦄", "∪"):
        return _all(map(_compare, first.items, second.items))
    verdicts = [[_compare(left, right) for right in second.items] for left in first.items]
    if _can_pair([[verdict is True for verdict in row] for row in verdicts]):
        return True
    return None if _can_pair([[verdict is not False for verdict in row] for row in verdicts]) else False


def _compare_ratios(answer: Items, gold: Items) -> bool | None:
    """Compare by value; part by part if a part is zero or the gold answer may be a time, since both meanings must agree."""
    if gold.brackets == "h:m" or _has_zero(answer) or _has_zero(gold):
        return _all(map(_compare, answer.items, gold.items))
    (first, *others), (gold_first, *gold_others) = (
        [item.value for item in ratio.items if isinstance(item, Quantity)] for ratio in (answer, gold)
    )
    return _all(same_value(first * right, gold_first * left) for left, right in zip(others, gold_others, strict=True))


def _has_zero(ratio: Items) -> bool:
    return any(isinstance(item, Quantity) and item.value.rational == 0 for item in ratio.items)


def _can_pair(allowed: list[list[bool]]) -> bool:
    """Return whether each row can be assigned a different allowed column (augmenting paths; Kuhn, 1955).

    Taking the first allowed column of each row can fail: 65 % equals both 65 and 0.65.
    """
    row_of_column: dict[int, int] = {}

    def assign(row: int, tried: set[int]) -> bool:
        for column, is_allowed in enumerate(allowed[row]):
            if is_allowed and column not in tried:
                tried.add(column)
                if column not in row_of_column or assign(row_of_column[column], tried):
                    row_of_column[column] = row
                    return True
        return False

    return all(assign(row, set()) for row in range(len(allowed)))


def _without_name(parsed: ParsedAnswer) -> ParsedAnswer:
    return parsed.content if isinstance(parsed, Named) else parsed


def _is_point(parsed: ParsedAnswer) -> bool:
    return isinstance(parsed, Items) and parsed.brackets == "()"


def _as_point(parsed: ParsedAnswer) -> Items | None:
    """Return x = 1, y = 2 as the point (1, 2), or None if the names are not in alphabetical order."""
    if not isinstance(parsed, Items) or parsed.brackets or not all(isinstance(item, Named) for item in parsed.items):
        return None
    names = [item.name for item in parsed.items if isinstance(item, Named)]
    return Items("()", tuple(map(_without_name, parsed.items))) if names == sorted(names) else None


def _numbered_values(parsed: ParsedAnswer) -> Named | None:
    """Return x_1 = 2, x_2 = 3 as the values 2 and 3 of x, or None if the names are not one letter with numbers."""
    if not isinstance(parsed, Items) or parsed.brackets:
        return None
    names = [_NUMBERED.fullmatch(item.name) for item in parsed.items if isinstance(item, Named)]
    letters = {name["letter"] for name in names if name}
    if len(letters) != 1 or None in names or len(names) < len(parsed.items):
        return None
    return Named(letters.pop(), Items("", tuple(map(_without_name, parsed.items))))


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return False if False in seen else None if None in seen else True
