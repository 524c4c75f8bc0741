"""Parses an exact number with its unit from normalised text, and compares two of these quantities."""

import re
from dataclasses import dataclass, field
from itertools import islice

from mathsft.tasks.math.equality.algebra import ExactValue, number, same_value
from mathsft.tasks.math.equality.formula import NotAFormulaError, parse_formula
from mathsft.tasks.math.equality.functions import ANGLE_FUNCTIONS
from mathsft.tasks.math.equality.units import NO_UNIT, Unit, parse_unit

_CURRENCY = re.compile(r"(?P<sign>[+-]? ?)(?:US ?(?=¤))?(?P<unit>[¤€£¥]) ?")
_CURRENCIES = {"¤": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}
_UNIT_BEGINS = re.compile(r" ?(?:\\text\{|%|°|[¤€£¥¢一-鿿]| [A-Za-z]{2,}|(?<=[0-9}])[A-Za-z]{2,}| [A-Za-z](?![A-Za-z(^_!]))")
_IS_UNMARKED = re.compile(r" *[A-Za-z]")
_ANGLE_FUNCTION = re.compile("|".join(ANGLE_FUNCTIONS))
_MAX_UNIT_PLACES = 8
_IN_BASE = re.compile(
    r"\(?(?:\\text\{)?(?P<digits>-?(?:[0-9A-Z]{1,200}|(?=[a-z]{0,9}[0-9])[0-9a-z]{1,200}))\}?\)? ?"
    r"(?:_ ?\{? ?(?:\\text\{)?|(?:\\text\{)?(?:in )?base )"
    r"(?P<base>[0-9]{1,2}|[a-z]{3,6})\}{0,2}"
)
_BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


class ParsedAnswer:
    """A parsed answer of any kind; `structures` has the other kinds."""


@dataclass(frozen=True)
class Quantity(ParsedAnswer):
    """An exact value and its unit."""

    value: ExactValue
    unit: Unit = NO_UNIT
    source: str = field(default="", compare=False)
    """The parsed text, for comparison with words."""


@dataclass(frozen=True)
class BasedNumber(ParsedAnswer):
    """Digits with their base; the same digits written without a base are equal to it."""

    digits: str
    base: int

    @property
    def value(self) -> int:
        return int(self.digits, self.base)


def parse_quantity(text: str, *, commas_group: bool) -> Quantity | None:
    """Return the whole normalised text as a number with its unit, or None; raises NoValueError as `parse_formula` does.

    With `commas_group`, 1,234 is one number; without it, a comma ends a number.
    """
    source, currency = text, _CURRENCY.match(text)
    if currency:
        text = currency["sign"] + text[currency.end() :]
    places = [unit.start() for unit in islice(_UNIT_BEGINS.finditer(text), _MAX_UNIT_PLACES)]
    # The degree sign in sin 30° belongs to the angle.
    for place in [len(text), *places] if _ANGLE_FUNCTION.search(text) else [*places, len(text)]:
        found = parse_unit(text[place:])
        value = _value_of(text[:place], commas_group) if found else None
        # "2x in" is a product of symbols; after symbols, a unit needs \text or a sign such as %.
        if found is None or value is None or (value.symbols and _IS_UNMARKED.match(text, place)):
            continue
        scale, unit = found
        return Quantity(value * number(scale), Unit(((_CURRENCIES[currency["unit"]], 1),)) if currency else unit, source)
    return None


def parse_based_number(text: str) -> BasedNumber | None:
    """Return the whole normalised text as a number with its base, or None."""
    found = _IN_BASE.fullmatch(text)
    if not found:
        return None
    name = found["base"]
    base = int(name) if name.isdigit() else _BASES.index(name) + 2 if name in _BASES else 0
    try:
        int(found["digits"], base if base > 1 else -1)
    except ValueError:
        return None
    return BasedNumber(found["digits"], base)


def same_quantity(first: Quantity, second: Quantity) -> bool | None:
    """Return whether the values agree and the units do not contradict each other; 65 % is both 65 and 0.65.

    Returns None if `same_value` returns None.
    """
    dimensions, other_dimensions = first.unit.dimensions, second.unit.dimensions
    if dimensions and other_dimensions:
        if dimensions != other_dimensions:
            return False
        return same_value(first.value * number(first.unit.size), second.value * number(second.unit.size))
    verdict = same_value(first.value, second.value)
    if verdict is not False:
        return verdict
    for percent, other in ((first, second), (second, first)):
        if percent.unit.dimensions == (("percent", 1),) and not other.unit.dimensions:
            return same_value(percent.value, other.value * number(100))
    return False


def same_based_number(first: BasedNumber, second: BasedNumber | Quantity) -> bool:
    """Return whether the numbers agree: by value if both have a base, by their digits if only one has."""
    if isinstance(second, BasedNumber):
        return first.value == second.value
    return first.digits.isdigit() and second.value.rational == int(first.digits)


def _value_of(text: str, commas_group: bool) -> ExactValue | None:
    try:
        return parse_formula(text, commas_group=commas_group)
    except NotAFormulaError:
        return None
