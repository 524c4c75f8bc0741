"""Parses one number in digits: decimal, repeating, mixed, with separators or with an exponent after an e."""

import re
from fractions import Fraction

from mathsft.tasks.math.equality.polynomials import NoValueError

_MAX_EXPONENT = 4_000

_DECIMALS = r"(?:\.(?P<decimals>[0-9]*+)(?:\\(?:overline|bar)\{(?P<period>[0-9]{1,100})\})?)?"
_SPACED_WHOLE = r"[0-9]{1,3}(?: [0-9]{3})++(?![0-9/])"
_E_NOTATION = r"(?:[eE](?P<exponent>[+-]?[0-9]{1,100})(?![0-9A-Za-z.]))?"
_NUMBER = re.compile(rf"(?P<whole>{_SPACED_WHOLE}|[0-9]*+){_DECIMALS}{_E_NOTATION}")
_NUMBER_WITH_COMMAS = re.compile(
    rf"(?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}})++(?![0-9])|{_SPACED_WHOLE}|[0-9]*+){_DECIMALS}{_E_NOTATION}"
)
_MIXED_TAIL = re.compile(
    r" ?\\frac ?\{ ?(?P<over>[0-9]{1,100}) ?\} ?\{ ?(?P<under>[0-9]{1,100}) ?\}(?! ?\^)"
    r"| (?P<above>[0-9]{1,100}) ?/ ?(?P<below>[0-9]{1,100})(?![0-9.])"
)


def parse_numeral(text: str, start: int, *, commas_group: bool) -> tuple[Fraction, int] | None:
    """Return the number that begins at `start` in normalised text, and the position after it; None if there is none.

    Raises NoValueError if the exponent is larger than any answer needs. With `commas_group`, 1,234 is one number.
    """
    found = (_NUMBER_WITH_COMMAS if commas_group else _NUMBER).match(text, start)
    if not found or not (found["whole"] or found["decimals"] or found["period"]):
        return None
    value = _decimal(found)
    is_whole = found["decimals"] is None and found["exponent"] is None
    if is_whole and (tail := _MIXED_TAIL.match(text, found.end())):
        part = Fraction(int(tail["over"] or tail["above"]), int(tail["under"] or tail["below"]) or 1)
        # 2\frac{5}{4} is a product, not a mixed number.
        if 0 < part < 1:
            return value + part, tail.end()
    return value, found.end()


def _decimal(found: re.Match[str]) -> Fraction:
    whole = found["whole"].replace(",", "").replace(" ", "")
    decimals, period, exponent = found["decimals"] or "", found["period"], int(found["exponent"] or 0)
    if abs(exponent) > _MAX_EXPONENT:
        raise NoValueError("exponent")
    shift = 10 ** len(decimals)
    value = Fraction(int(whole + decimals or "0"), shift)
    if period:
        value += Fraction(int(period), shift * (10 ** len(period) - 1))
    return value * Fraction(10) ** exponent
