r"""Parses equations and inequalities: x = 4 becomes a name and a value, an inequality in one unknown an interval."""

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from mathsft.tasks.math.equality.algebra import ExactValue, same_value, sign, symbol
from mathsft.tasks.math.equality.brackets import BRACKET, split_outside_brackets
from mathsft.tasks.math.equality.formula import NotAFormulaError, parse_formula
from mathsft.tasks.math.equality.polynomials import Atom, CannotComputeError
from mathsft.tasks.math.equality.quantities import ParsedAnswer, Quantity
from mathsft.tasks.math.equality.structures import INFINITY, Items, Named, Relation, Text, text_key

_SIGN = re.compile(rf"{BRACKET}| ?(?:<=|>=|[=<>]|\\(?:le|ge|ne|in)(?![A-Za-z])) ?")
_SIGNS = {"<=": r"\le", ">=": r"\ge"}
_TURNED = {"<": ">", r"\le": r"\ge"}
_NAME = re.compile(
    r"(?:\\text\{[^{}]{1,40}\}|\\[A-Za-z]{1,20}(?: [A-Za-z]{1,20})?|[A-Za-z]{1,20}|\([A-Za-z](?:, ?[A-Za-z]){1,5}\))"
    r"(?: ?_ ?\{[A-Za-z0-9]{1,10}\}|')?(?:\([A-Za-z]\))?"
)


def parse_relation(text: str, *, commas_group: bool, parse: Callable[[str], ParsedAnswer]) -> ParsedAnswer | None:
    """Return the equation or inequality in the text, or None if there is none; `parse` parses a value of any kind.

    A contradiction, as 4 = 5, is parsed as words. Raises NoValueError as `parse_formula` does.
    """
    sides, separators = split_outside_brackets(text, _SIGN)
    signs = [_SIGNS.get(separator, separator) for separator in separators]
    if not signs or not all(sides):
        return None
    if set(signs) == {"="}:
        return _equation(text, sides, commas_group, parse)
    if signs == [r"\in"]:
        return Named(text_key(sides[0]), parse(sides[1])) if _NAME.fullmatch(sides[0]) else None
    try:
        values = [parse_formula(side, commas_group=commas_group) for side in sides]
        relations = [_inequality(values[place], signs[place], values[place + 1]) for place in range(len(signs))]
    except (NotAFormulaError, CannotComputeError):
        return None
    return relations[0] if len(relations) == 1 else intersection(relations)


def intersection(half_lines: list[ParsedAnswer]) -> ParsedAnswer | None:
    """Return the interval that two half-lines of the same unknown have in common, or None."""
    for in_order in (half_lines, half_lines[::-1]):
        match in_order:
            case [
                Named(name, Items(brackets, (Quantity() as low, Quantity(value=high_end)))),
                Named(other_name, Items(other_brackets, (Quantity(value=low_end), Quantity() as high))),
            ] if name == other_name and high_end == INFINITY and low_end == -INFINITY and low.value != -INFINITY:
                return Named(name, Items(brackets[0] + other_brackets[1], (low, high)))
    return None


def is_interval(parsed: ParsedAnswer) -> bool:
    """Return whether the parsed answer may be an interval."""
    return isinstance(parsed, Items) and len(parsed.items) == 2 and parsed.brackets in ("()", "[]", "(]", "[)")


def real_line_without(*points: ExactValue) -> Items:
    """Return the real numbers without the given points, which must be in ascending order."""
    ends = [-INFINITY, *points, INFINITY]
    intervals = [Items("()", (Quantity(low), Quantity(high))) for low, high in pairwise(ends)]
    return Items("∪", tuple(intervals)) if points else intervals[0]


def same_relation(first: Relation, second: Relation) -> bool | None:
    """Return whether one relation is a multiple (for an inequality a positive one) of the other; None if undecided."""
    if first.sign != second.sign:
        return False
    left, right = first.difference, second.difference
    shared = sorted(left.upper.keys() & right.upper.keys())
    has_functions = any(atom.function for atom in left.atoms | right.atoms)
    if left.upper.keys() != right.upper.keys() and left.lower == right.lower and not has_functions:
        return False
    if not shared:
        return None
    factor = left.upper[shared[0]] / right.upper[shared[0]]
    if factor < 0 and first.sign in (">", r"\ge"):
        return False
    return same_value(
        left, ExactValue({powers: factor * coefficient for powers, coefficient in right.upper.items()}, right.lower)
    )


def as_relation(named: Named) -> Relation | None:
    """Return an assignment of a formula as an equation, or None for an assignment of another kind of value."""
    if not isinstance(named.content, Quantity) or len(named.name) != 1:
        return None
    return Relation("=", symbol(named.name) - named.content.value)


def _equation(text: str, sides: list[str], commas_group: bool, parse: Callable[[str], ParsedAnswer]) -> ParsedAnswer | None:
    if len(sides) == 2 and not _NAME.fullmatch(sides[0]) and _NAME.fullmatch(sides[1]):
        sides.reverse()
    if len(sides) == 2 and _NAME.fullmatch(sides[0]):
        return Named(_name(sides[0]), parse(sides[1]))
    name = _name(sides.pop(0)) if _NAME.fullmatch(sides[0]) else None
    try:
        values = [parse_formula(side, commas_group=commas_group) for side in sides]
        differences = [values[0] - value for value in values[1:]]
    except (NotAFormulaError, CannotComputeError):
        return None
    if all(same_value(values[0], value) for value in values[1:]):
        return Named(name, Quantity(values[0])) if name else Quantity(values[0])
    if len(differences) > 1 or name or not differences[0].symbols:
        return Text(text)
    return Relation("=", differences[0])


def _name(side: str) -> str:
    return side if len(side) == 1 else text_key(side)


def _inequality(left: ExactValue, sign_between: str, right: ExactValue) -> ParsedAnswer:
    if sign_between in _TURNED:
        left, right, sign_between = right, left, _TURNED[sign_between]
    difference = left - right
    solved = _solved(difference)
    if solved is None or sign_between not in (">", r"\ge", r"\ne"):
        return Relation(sign_between, difference)
    name, point, direction = solved
    if sign_between == r"\ne":
        return Named(name, real_line_without(point))
    closing = sign_between == r"\ge"
    if direction > 0:
        return Named(name, Items("[)" if closing else "()", (Quantity(point), Quantity(INFINITY))))
    return Named(name, Items("(]" if closing else "()", (Quantity(-INFINITY), Quantity(point))))


def _solved(difference: ExactValue) -> tuple[str, ExactValue, int] | None:
    """Return the unknown, its value where the difference is zero, and the sign of its coefficient; None if not linear."""
    if len(difference.symbols) != 1 or len(difference.lower) > 1:
        return None
    (name,) = difference.symbols
    if any(argument.symbols for powers in difference.upper for atom, _ in powers for argument in atom.arguments):
        return None
    slope, constant = {}, {}
    for powers, coefficient in difference.upper.items():
        rest = tuple((atom, exponent) for atom, exponent in powers if atom.name != name)
        if rest == powers:
            constant[powers] = coefficient
        elif (Atom(name), Fraction(1)) in powers:
            slope[rest] = coefficient
        else:
            return None
    direction = sign(ExactValue(slope))
    return (name, -ExactValue(constant) / ExactValue(slope), direction) if direction else None
