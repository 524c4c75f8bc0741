"""Decides by rule whether two answers have the same value; what only algebra beyond the rules could tell stays undecided."""

import re
from collections.abc import Iterable

from mathsft.answers.algebra import same_value
from mathsft.answers.normalise import normalise
from mathsft.answers.parse_answer import parsed_answers
from mathsft.answers.polynomials import CannotComputeError, NoValueError
from mathsft.answers.quantities import BasedNumber, Quantity, same_based_number, same_quantity
from mathsft.answers.relations import as_relation, same_relation
from mathsft.answers.sentences import without_one_sentence
from mathsft.answers.structures import (
    Choice,
    Clock,
    Family,
    Items,
    Matrix,
    Named,
    ParsedAnswer,
    Relation,
    Text,
    Unread,
    Valueless,
    text_key,
)

_HALF_A_DAY = 12 * 60
_NUMBERED = re.compile(r"(?P<letter>\\?[A-Za-z]+)_\{[0-9]+\}")


def equal(answer: str, gold: str) -> bool:
    """Tell whether the answer has the gold answer's value; what the rules cannot decide counts as different."""
    return decide(answer, gold) is True


def decide(answer: str, gold: str) -> bool | None:
    """Return whether two answers have the same value, None where only algebra could tell; never raises, never hangs."""
    first, second = comparable(answer, gold)
    if not first or not second:
        return False
    if first == second:
        return True
    return _any(_compare_or_leave(one, other) for one in parsed_answers(first) for other in parsed_answers(second))


def comparable(answer: str, gold: str) -> tuple[str, str]:
    """Return both in their one spelling, without the sentence that one of them may be; "" where it is no answer."""
    return without_one_sentence(normalise(answer), normalise(gold))


def _compare_or_leave(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    """Compare whole answers; None where both can be read, but what they have in common is beyond our arithmetic."""
    try:
        return _compare_answers(first, second)
    except (CannotComputeError, NoValueError):
        return None


def _compare_answers(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    """Compare whole answers, where y = 4 and 4 say the same."""
    if isinstance(first, Family) and isinstance(second, Family):
        return _compare_answers(first.content, second.content) if first.letter == second.letter else False
    numbered, other_numbered = _numbered_values(first), _numbered_values(second)
    # In two numbered lists, and in the order of a point, each value has its own place.
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
    return True if first == second else None if isinstance(first, Unread) else False


def _same_word(first: str, second: str) -> bool:
    """Tell whether both are the same letters but for their case: "Yes" also reads as a product of symbols."""
    return len(first) > 1 and first.isalpha() and first.casefold() == second.casefold()


def _compare_mixed(first: ParsedAnswer, second: ParsedAnswer) -> bool | None:
    """Compare readings of two kinds, in either order."""
    for one, other in ((first, second), (second, first)):
        match one, other:
            case Text(), Unread():
                return one.key == text_key(other.text)
            case Valueless(), _:
                return False
            case BasedNumber(), Quantity():
                return same_based_number(one, other)
            case Text(), Quantity():
                return one.key.isalpha() and one.key == text_key(other.source)
            case Choice(), Text():
                return one.letter == other.key or _compare(one.content, other)
            case Choice(), Quantity() if one.letter == text_key(other.source):
                return True
            case Choice(), _:
                # In their order: where one may be a ratio or a time, the gold answer decides.
                return _compare(*(side.content if isinstance(side, Choice) else side for side in (first, second)))
            case Clock(), Items("h:m"):
                return _compare_clock(one, other)
            case Clock(), _:
                return False
            case Named(), Relation():
                relation = as_relation(one)
                return same_relation(relation, other) if relation else False
            case Items(":" | "h:m", (Quantity() as upper, Quantity() as lower)), Quantity():
                return False if _has_zero(one) else same_value(upper.value, lower.value * other.value)
            case Items("()"), Matrix() if all(len(row) == 1 for row in other.rows):
                return _compare_items(one, Items("()", tuple(row[0] for row in other.rows)))
            case Items("[]" | "()", rows), Matrix():
                cells = tuple(row.items for row in rows if isinstance(row, Items))
                return len(cells) == len(rows) and _compare_matrices(Matrix(False, cells), other)
            case Items("⦃⦄", (single,)), _ if not isinstance(other, Items):
                return _compare(single, other)
    return None if isinstance(first, Unread) or isinstance(second, Unread) else False


def _compare_named(first: Named, second: Named) -> bool | None:
    if first.name.casefold() == second.name.casefold():
        return _compare(first.content, second.content)
    relation, other = as_relation(first), as_relation(second)
    # y = 2x is x = y/2, but y = 4 is not x = 4.
    return same_relation(relation, other) if relation and other and len(relation.difference.symbols) > 1 else False


def _compare_clock(clock: Clock, ratio: Items) -> bool:
    """Compare with 3:45, which may leave out the half of the day."""
    numbers = [item.value.rational for item in ratio.items if isinstance(item, Quantity)]
    if len(numbers) != 2 or None in numbers:
        return False
    hour, minute = (int(number or 0) for number in numbers)
    minutes = 60 * hour + minute
    return minutes == clock.minutes or (hour <= 12 and (minutes - clock.minutes) % _HALF_A_DAY == 0)


def _compare_matrices(first: Matrix, second: Matrix) -> bool | None:
    if first.is_determinant != second.is_determinant or [len(row) for row in first.rows] != [
        len(row) for row in second.rows
    ]:
        return False
    pairs = zip(first.rows, second.rows, strict=True)
    return _all(_compare(one, other) for row, other_row in pairs for one, other in zip(row, other_row, strict=True))


def _compare_items(first: Items, second: Items) -> bool | None:
    if len(first.items) != len(second.items):
        return False
    if ":" in first.brackets and ":" in second.brackets:
        return _compare_ratios(first, second)
    if first.is_ordered or second.is_ordered:
        if first.brackets != second.brackets:
            return False
        return _all(_compare(one, other) for one, other in zip(first.items, second.items, strict=True))
    if "∪" in (first.brackets, second.brackets) and first.brackets != second.brackets:
        return False
    verdicts = [[_compare(one, other) for other in second.items] for one in first.items]
    if _can_pair([[verdict is True for verdict in row] for row in verdicts]):
        return True
    return None if _can_pair([[verdict is not False for verdict in row] for row in verdicts]) else False


def _compare_ratios(answer: Items, gold: Items) -> bool | None:
    """Compare part by part where the gold answer may be a time, for both readings have to agree, or where a part is zero."""
    pairs = list(zip(answer.items, gold.items, strict=True))
    if gold.brackets == "h:m" or _has_zero(answer) or _has_zero(gold):
        return _all(_compare(one, other) for one, other in pairs)
    values = [(one.value, other.value) for one, other in pairs if isinstance(one, Quantity) and isinstance(other, Quantity)]
    return _all(same_value(values[0][0] * other, values[0][1] * value) for value, other in values[1:])


def _has_zero(ratio: Items) -> bool:
    return any(isinstance(item, Quantity) and item.value.rational == 0 for item in ratio.items)


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


def _without_name(reading: ParsedAnswer) -> ParsedAnswer:
    return reading.content if isinstance(reading, Named) else reading


def _is_point(reading: ParsedAnswer) -> bool:
    return isinstance(reading, Items) and reading.brackets == "()"


def _as_point(reading: ParsedAnswer) -> Items | None:
    """Return x = 1, y = 2 as the point (1, 2), None where the names are not in the order of the alphabet."""
    if not isinstance(reading, Items) or reading.brackets or not all(isinstance(item, Named) for item in reading.items):
        return None
    names = [item.name for item in reading.items if isinstance(item, Named)]
    return Items("()", tuple(map(_without_name, reading.items))) if names == sorted(names) else None


def _numbered_values(reading: ParsedAnswer) -> Named | None:
    """Return x_1 = 2, x_2 = 3 as the values 2 and 3 of x, None where the names are not one letter with several numbers."""
    if not isinstance(reading, Items) or reading.brackets:
        return None
    found = [_NUMBERED.fullmatch(item.name) for item in reading.items if isinstance(item, Named)]
    letters = {name["letter"] for name in found if name}
    if len(letters) != 1 or None in found or len(found) < len(reading.items):
        return None
    return Named(letters.pop(), Items("", tuple(map(_without_name, reading.items))))


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return False if False in seen else None if None in seen else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return True if True in seen else None if None in seen else False
