r"""Reads a number with its unit out of normalised text and compares two of them, exactly.

It knows the ways in which one rational number is written (integer, decimal, \frac, a/b, mixed, scientific, repeating) and
does no arithmetic beyond that; it converts no units.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from mathsft.answers.normalise import closing_brace, without_text_commands

_SIGN = re.compile(r"([+-]?) ?")
_FRACTION_PART = r"(?:\.(?P<decimals>[0-9]*+)(?:\\(?:overline|bar)\{(?P<period>[0-9]{1,100})\})?)?"
_SPACED_WHOLE = r"[0-9]{1,3}(?: [0-9]{3})++(?![0-9/])"
_DECIMAL = re.compile(rf"(?P<whole>{_SPACED_WHOLE}|[0-9]*+){_FRACTION_PART}")
_DECIMAL_WITH_COMMAS = re.compile(
    rf"(?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}})++(?![0-9])|{_SPACED_WHOLE}|[0-9]*+){_FRACTION_PART}"
)
_EXPONENT = r"\^ ?(?:\{ ?(?P<braced>[+-]?[0-9]{1,3}) ?\}|(?P<bare>-?[0-9]{1,3}))(?![0-9])"
"""At most three digits: a number of a thousand digits is the largest that a power makes."""
_POWER_OF_TEN = re.compile(rf"10 ?{_EXPONENT}")
_TIMES_POWER_OF_TEN = re.compile(rf" ?(?:\\times|\\cdot|\*|x) ?10 ?{_EXPONENT}")
_E_NOTATION = re.compile(r"[eE](?P<braced>[+-]?[0-9]{1,3})(?P<bare>)(?![0-9A-Za-z.])")
_SLASH = re.compile(r" ?/ ?(?=[0-9.+-])")
_MIXED_TAIL = re.compile(r" (?P<numerator>[0-9]{1,100})/(?P<denominator>[0-9]{1,100})(?![0-9.])")

_MAX_UNIT_CHARS = 60
_MAX_UNIT_WORDS = 5
_UNIT_PART = re.compile(
    r" ?(?P<join>/|\\cdot(?![A-Za-z])|) ?(?P<word>%|°(?: ?[CF](?![A-Za-z]))?|[A-Za-z]+)"
    r"(?: ?\^(?:\{(?P<braced>-?[1-9])\}|(?P<bare>[1-9])))?"
)
_UNITS = {
    spelling: unit
    for unit, spellings in {
        "%": "% percent",
        "°": "° deg degree degrees",
        "°C": "°C",
        "°F": "°F",
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "m": "m meter meters metre metres",
        "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches",
        "ft": "ft foot feet",
        "yd": "yd yard yards",
        "mi": "mi mile miles",
        "mg": "mg milligram milligrams",
        "g": "g gram grams",
        "kg": "kg kilogram kilograms",
        "lb": "lb lbs pound pounds",
        "oz": "oz ounce ounces",
        "ml": "ml mL milliliter milliliters millilitre millilitres",
        "L": "L liter liters litre litres",
        "s": "s sec secs second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "day": "day days",
        "week": "week weeks",
        "month": "month months",
        "year": "yr yrs year years",
        "dollar": "dollar dollars",
        "cent": "cent cents",
    }.items()
    for spelling in spellings.split()
}
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_NO_UNITS = """
about and approximately around at base but by choose divided dozen either equals factorial half halves hundredths if
infinity is least less maybe minus mod modulo more most nor not or over perhaps pi plus possibly quarter quarters remainder
roughly sqrt tenths than third thirds thousandths times to under
"""
"""Words after a number that make it another number, or none."""


@dataclass(frozen=True)
class Quantity:
    """An exact number and its unit: "cm^2", "h^-1 mi"; "" for none and for words that are no known unit."""

    value: Fraction
    unit: str


def read_quantity(text: str, *, commas_group: bool) -> Quantity | None:
    """Return the number with its unit that the whole of the normalised text is, or None.

    `commas_group` reads 1,234 as one number; without it a comma ends a number.
    """
    found = _leading_number(text, commas_group)
    if found is None:
        return None
    value, end = found
    scale, rest = _scale(text[end:])
    unit = _read_unit(rest)
    return None if unit is None else Quantity(value * scale, unit)


def same_quantity(first: Quantity, second: Quantity) -> bool:
    """Tell whether the numbers agree and the units do not contradict each other; 65 % is both 65 and 0.65."""
    if first.value == second.value:
        return not first.unit or not second.unit or first.unit == second.unit
    if first.unit == "%" and not second.unit:
        return first.value == second.value * 100
    if second.unit == "%" and not first.unit:
        return second.value == first.value * 100
    return False


def _leading_number(text: str, commas_group: bool) -> tuple[Fraction, int] | None:
    """Return the signed number with which the text begins, and where it ends."""
    sign = _SIGN.match(text)
    start = sign.end() if sign else 0
    found = _read_frac(text, start) or _read_power_of_ten(text, start) or _read_plain(text, start, commas_group)
    if found is None:
        return None
    value, end = found
    return (-value if sign and sign[1] == "-" else value), end


def _whole_number(text: str) -> Fraction | None:
    """Return the number without a unit that the whole text is."""
    stripped = text.strip()
    found = _leading_number(stripped, commas_group=True)
    return found[0] if found and found[1] == len(stripped) else None


def _read_frac(text: str, start: int) -> tuple[Fraction, int] | None:
    r"""Read \frac{a}{b} of two plain numbers; normalised text has braces around all but a last single digit."""
    if not text.startswith(r"\frac", start):
        return None
    numbers = []
    end = start + len(r"\frac")
    for _ in range(2):
        end += text.startswith(" ", end)
        if text.startswith("{", end):
            closing = closing_brace(text, end)
            number = _whole_number(text[end + 1 : closing]) if closing else None
            end = closing + 1 if closing else end
        else:
            number = _whole_number(text[end : end + 1])
            end += 1
        if number is None:
            return None
        numbers.append(number)
    numerator, denominator = numbers
    return (numerator / denominator, end) if denominator else None


def _read_power_of_ten(text: str, start: int) -> tuple[Fraction, int] | None:
    power = _POWER_OF_TEN.match(text, start)
    return (_power_of_ten(power), power.end()) if power else None


def _read_plain(text: str, start: int, commas_group: bool) -> tuple[Fraction, int] | None:
    """Read a decimal, and what may follow one: a fraction that makes it a mixed number, a divisor or a power of ten."""
    found = _read_decimal(text, start, commas_group)
    if found is None:
        return None
    value, end = found
    if power := _TIMES_POWER_OF_TEN.match(text, end) or _E_NOTATION.match(text, end):
        return value * _power_of_ten(power), power.end()
    if slash := _SLASH.match(text, end):
        return _read_divided(value, text, slash.end(), commas_group)
    if fraction := _read_mixed_tail(text, end):
        # 2\frac{5}{4} is no mixed number; whether it is a product, others may find out.
        is_mixed = value.denominator == 1 and 0 < fraction[0] < 1
        return (value + fraction[0], fraction[1]) if is_mixed else None
    return value, end


def _read_mixed_tail(text: str, start: int) -> tuple[Fraction, int] | None:
    if tail := _MIXED_TAIL.match(text, start):
        denominator = int(tail["denominator"])
        return (Fraction(int(tail["numerator"]), denominator), tail.end()) if denominator else None
    return _read_frac(text, start + text.startswith(" ", start))


def _read_divided(value: Fraction, text: str, start: int, commas_group: bool) -> tuple[Fraction, int] | None:
    sign = _SIGN.match(text, start)
    found = _read_decimal(text, sign.end() if sign else start, commas_group)
    if found is None or not found[0]:
        return None
    quotient = value / found[0]
    return (-quotient if sign and sign[1] == "-" else quotient), found[1]


def _read_decimal(text: str, start: int, commas_group: bool) -> tuple[Fraction, int] | None:
    decimal = (_DECIMAL_WITH_COMMAS if commas_group else _DECIMAL).match(text, start)
    if not decimal or not (decimal["whole"] or decimal["decimals"] or decimal["period"]):
        return None
    whole = decimal["whole"].replace(",", "").replace(" ", "")
    decimals, period = decimal["decimals"] or "", decimal["period"]
    shift = 10 ** len(decimals)
    value = Fraction(int(whole + decimals or "0"), shift)
    if period:
        value += Fraction(int(period), shift * (10 ** len(period) - 1))
    return value, decimal.end()


def _power_of_ten(power: re.Match[str]) -> Fraction:
    return Fraction(10) ** int(power["braced"] or power["bare"])


def _scale(rest: str) -> tuple[int, str]:
    """Take a word like "million" off what follows a number."""
    words = without_text_commands(rest)
    first, _, others = words.partition(" ")
    return (_SCALES[first], f" {others}" if others else "") if first in _SCALES else (1, rest)


def _read_unit(rest: str) -> str | None:
    """Return the unit that follows a number, "" where it says nothing that could contradict another, None for no unit."""
    if len(rest) > _MAX_UNIT_CHARS:
        return None
    is_marked = r"\text{" in rest
    # A letter that touches its number, as in 5m, is algebra.
    is_spaced = is_marked or rest.startswith(" ")
    words = without_text_commands(rest)
    powers: list[tuple[str, int]] = []
    power_of_next, has_unknown_word, end = 1, False, 0
    while end < len(words):
        part = _UNIT_PART.match(words, end)
        if not part or len(powers) >= _MAX_UNIT_WORDS:
            return None
        end = part.end()
        power = int(part["braced"] or part["bare"] or 1)
        word = part["word"].replace(" ", "")
        if part["join"] == "/":
            power_of_next = -power_of_next
        if word in ("square", "sq", "cubic", "per"):
            power_of_next *= {"square": 2, "sq": 2, "cubic": 3, "per": -1}[word]
            continue
        if word in ("squared", "cubed") and powers:
            powers[-1] = (powers[-1][0], powers[-1][1] * {"squared": 2, "cubed": 3}[word])
            continue
        unit = _known_unit(word, is_spaced)
        if unit is None and not _may_be_a_thing(word, is_marked, is_spaced):
            return None
        has_unknown_word |= unit is None
        powers.append((unit or word, power * power_of_next))
        power_of_next = 1
    if has_unknown_word:
        return ""
    return " ".join(sorted(unit if power == 1 else f"{unit}^{power}" for unit, power in powers))


def _known_unit(word: str, is_spaced: bool) -> str | None:
    if len(word) == 1 and word.isalpha() and not is_spaced:
        return None
    return _UNITS.get(word) or _UNITS.get(word.lower() if len(word) > 1 else word)


def _may_be_a_thing(word: str, is_marked: bool, is_spaced: bool) -> bool:
    """Tell whether 5 <word> counts things (5 apples) rather than multiplies (5 xy)."""
    if word.lower() in _NO_UNITS.split():
        return False
    return len(word) >= 2 if is_marked else is_spaced and len(word) >= 3
