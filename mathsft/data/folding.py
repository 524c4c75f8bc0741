r"""Folds a problem's text to keys that are equal for different spellings of the problem: `pool_key` and `problem_key`.

Both fold white space, notation (\dfrac is \frac, \( is $), Unicode's variants of one character, and case. Digits, operators,
superscripts and fractions stay as they are. Different problems may share a `pool_key`, but not a `problem_key`.
"""

import re
import unicodedata
from functools import cache

_SAME_CHARACTER = {"<compat>", "<font>", "<narrow>", "<noBreak>", "<small>", "<wide>"}
"""Unicode's compatibility kinds that change only the appearance; <super> and <fraction> (x², ½) would change the value."""

_SPELLINGS = {
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("‘’‛", "'"),
    **dict.fromkeys("“”‟", '"'),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),  # invisible characters
}

_NOTATION = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"(?<!\\)(?:\\[()\[\]]|\$\$)"), "$"),
)
_WORD = re.compile(r"\\?(?:[^\W\d_]{2,}|[AaIi](?= [A-Za-z]{2}| \$?\d)|(?<=')[A-Za-z])")
"""A word: also a, I and the s of Ann's; any other single letter is a symbol."""


def pool_key(text: str) -> str:
    """Return the key of the problems that must be in one pool; problems that differ only in the case of symbols share it."""
    return _plain(text).casefold()


def problem_key(text: str) -> str:
    """Return the key of a problem in all its spellings; the case of symbols (r, AB) and of TeX commands matters."""
    text = _plain(text)
    is_all_capitals = text.isupper()

    def fold(found: re.Match[str]) -> str:
        word = found[0]
        is_symbol = word.startswith("\\") or (word.isupper() and 1 < len(word) < 5 and not is_all_capitals)
        return word if is_symbol else word.casefold()

    return _WORD.sub(fold, text)


def _plain(text: str) -> str:
    """Return the text in one notation, with one variant of each character and single spaces."""
    if not text.isascii():
        text = "".join(map(_plain_character, unicodedata.normalize("NFC", text)))
    for pattern, notation in _NOTATION:
        text = pattern.sub(notation, text)
    return " ".join(text.split())


@cache
def _plain_character(char: str) -> str:
    """Return the plain variant of a character."""
    kind = unicodedata.decomposition(char).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", char) if kind in _SAME_CHARACTER else char
    return "".join(_SPELLINGS.get(variant, variant) for variant in plain)
