"""Parses the unit after a number into dimensions and an exact size, so that units of one dimension can be converted.

Degrees and radians are different dimensions: an angle in radians is wrong if the question asks for degrees.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from mathsft.tasks.math.equality.spelling import DOLLAR, without_text_commands

_MAX_CHARS = 60
_MAX_WORDS = 6
_PART = re.compile(
    r" ?(?P<join>/|\\cdot(?![A-Za-z])|) ?(?P<word>%|°(?: ?[CF](?![A-Za-z]))?|[A-Za-z]+|[¤€£¥¢]|平方|立方|[一-鿿]+)\.?"
    r"(?: ?\^ ?\{ ?(?P<power>-?[1-9]) ?\})?"
)
# For each dimension: the size of each unit relative to the first one, and its spellings.
_DIMENSIONS = {
    "percent": [("1", "% percent pct percentage")],
    "degree": [("1", "° deg degs degree degrees 度")],
    "radian": [("1", "rad rads radian radians")],
    "celsius": [("1", "°C celsius 摄氏度")],
    "fahrenheit": [("1", "°F fahrenheit")],
    "length": [
        ("1", "m meter meters metre metres 米"),
        ("1/1000", "mm millimeter millimeters millimetre millimetres 毫米"),
        ("1/100", "cm centimeter centimeters centimetre centimetres 厘米"),
        ("1000", "km kms kilometer kilometers kilometre kilometres 千米 公里"),
        ("0.0254", "in inch inches"),
        ("0.3048", "ft foot feet"),
        ("0.9144", "yd yds yard yards"),
        ("1609.344", "mi mile miles"),
    ],
    "mass": [
        ("1", "g gram grams 克"),
        ("1/1000", "mg milligram milligrams"),
        ("1000", "kg kgs kilogram kilograms 千克 公斤"),
        ("453.59237", "lb lbs pound pounds"),
        ("28.349523125", "oz ounce ounces"),
    ],
    "volume": [
        ("1", "L l liter liters litre litres 升"),
        ("1/1000", "ml mL milliliter milliliters millilitre millilitres 毫升"),
    ],
    "time": [
        ("1", "s sec secs second seconds 秒"),
        ("60", "min mins minute minutes 分钟"),
        ("3600", "h hr hrs hour hours 小时"),
        ("86400", "day days 天"),
        ("604800", "week weeks wk wks"),
    ],
    "month": [("1", "month months"), ("12", "yr yrs year years 年 岁")],
    "dollar": [("1", f"{DOLLAR} dollar dollars usd 美元"), ("1/100", "¢ cent cents")],
    "euro": [("1", "€ euro euros eur")],
    "sterling": [("1", "£ gbp")],
    "yen": [("1", "¥ yen 円")],
    "yuan": [("1", "yuan cny rmb 元")],
}
_UNITS = {
    spelling: (dimension, Fraction(size))
    for dimension, units in _DIMENSIONS.items()
    for size, spellings in units
    for spelling in spellings.split()
}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3, "平方": 2, "立方": 3}
_COUNTERS = frozenset("个個只人名次种條条件张本支")
"""Chinese measure words after a count; other words in this position may mean "or so" or "ten thousand"."""
_NO_UNITS = """
about and approximately around at base but by choose chosen correct divided either equals factorial half halves hundredths
if incorrect infinity is least less log maybe minus mod modulo more most nor not or over perhaps pi plus possibly probably
quarter quarters remainder roughly sin cos tan sqrt tenths than third thirds thousandths through times to under unless until
wrong
"""
"""Words after a number that change its value or make it no number."""


@dataclass(frozen=True)
class Unit:
    """A product of powers of dimensions, and its size in the first unit of each; no dimensions if the unit is unknown."""

    dimensions: tuple[tuple[str, int], ...] = ()
    size: Fraction = Fraction(1)


NO_UNIT = Unit()


def parse_unit(text: str) -> tuple[int, Unit] | None:
    """Return the scale ("million") and the unit in the normalised text after a number, or None if it is no unit.

    The unit is `NO_UNIT` if the words name the things that are counted.
    """
    is_marked = r"\text{" in text
    is_spaced = is_marked or text.startswith(" ")
    words = without_text_commands(text)
    if len(text) > _MAX_CHARS:
        return None
    first, _, others = words.partition(" ")
    scale = _SCALES.get(first.lower(), 1)
    words = words if scale == 1 else others
    powers: list[tuple[str, int]] = []
    power_of_next, end = 1, 0
    while end < len(words):
        part = _PART.match(words, end)
        if not part or len(powers) >= _MAX_WORDS:
            return None
        end = part.end()
        word = part["word"].replace(" ", "")
        if part["join"] == "/" or word == "per":
            power_of_next = -1
        if word in ("per", "of", "the"):
            continue
        if word in _POWER_WORDS:
            if word.endswith("d"):
                if not powers:
                    return None
                powers[-1] = (powers[-1][0], powers[-1][1] * _POWER_WORDS[word])
            else:
                power_of_next *= _POWER_WORDS[word]
            continue
        spelling = word if word in _UNITS or len(word) == 1 else word.lower()
        # A single letter without a space before it, as in 5m, is a symbol.
        is_known = spelling in _UNITS and (is_spaced or len(word) > 1 or not (word.isascii() and word.isalpha()))
        if not is_known and not _may_be_counted(word, is_marked, is_spaced):
            return None
        powers.append((spelling, int(part["power"] or 1) * power_of_next))
        # All units after "per" are in the denominator.
        power_of_next = -1 if power_of_next < 0 else 1
    return (scale, _product_of_powers(powers)) if abs(power_of_next) == 1 else None


def _product_of_powers(powers: list[tuple[str, int]]) -> Unit:
    if any(spelling not in _UNITS for spelling, _ in powers):
        return NO_UNIT
    size, exponents = Fraction(1), dict[str, int]()
    for spelling, power in powers:
        dimension, factor = _UNITS[spelling]
        size *= factor**power
        exponents[dimension] = exponents.get(dimension, 0) + power
    return Unit(tuple(sorted(exponents.items())), size)


def _may_be_counted(word: str, is_marked: bool, is_spaced: bool) -> bool:
    """Return whether the word names things that are counted (5 apples), rather than factors (5 xy)."""
    if word.lower() in _NO_UNITS.split():
        return False
    if not word.isascii():
        return word in _COUNTERS
    return len(word) >= 2 if is_marked else is_spaced and len(word) >= 3
