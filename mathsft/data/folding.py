r"""Folds a problem's text to keys that its other spellings share: one for pools, one that no two different problems share.

Both fold white space, notation (\dfrac is \frac, \( is $), Unicode's variants of one character, and case. Digits, operators,
superscripts and fractions stay as they are. What pools and contradictions are is decided in `pools` and `quality`.
"""

import re
import unicodedata
from functools import cache

_SAME_CHARACTER = {"<compat>", "<font>", "<narrow>", "<noBreak>", "<small>", "<wide>"}
"""Unicode's kinds of compatibility that change the looks alone; of x² and ½ (<super>, <fraction>) they change the value."""

_SPELLINGS = {
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("‘’‛", "'"),
    **dict.fromkeys("“”‟", '"'),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),  # a reader does not see these
}

_NOTATION = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"(?<!\\)(?:\\[()\[\]]|\$\$)"), "$"),
)
_WORD = re.compile(r"\\?(?:[^\W\d_]{2,}|[AaIi](?= [A-Za-z]{2}| \$?\d)|(?<=')[A-Za-z])")
"""A word: also a, I and the s of Ann's, but not any other letter on its own, which is a symbol."""


def pool_key(text: str) -> str:
    """Return the key of what stays in one pool: problems that differ only in the case of their symbols have one, too."""
    return _plain(text).casefold()


def problem_key(text: str) -> str:
    """Return the key of a problem and its other spellings; the case of symbols (r, AB) and of TeX's commands stays."""
    text = _plain(text)
    is_shouted = text.isupper()

    def fold(found: re.Match[str]) -> str:
        word = found[0]
        is_symbol = word.startswith("\\") or (word.isupper() and 1 < len(word) < 5 and not is_shouted)
        return word if is_symbol else word.casefold()

    return _WORD.sub(fold, text)


def _plain(text: str) -> str:
    """Return the text without what does not show: one notation, one spelling of each character, single spaces."""
    if not text.isascii():
        text = "".join(map(_spelled, unicodedata.normalize("NFC", text)))
    for spelling, usual in _NOTATION:
        text = spelling.sub(usual, text)
    return " ".join(text.split())


@cache
def _spelled(char: str) -> str:
    """Return the one spelling of a character and its variants."""
    kind = unicodedata.decomposition(char).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", char) if kind in _SAME_CHARACTER else char
    return "".join(_SPELLINGS.get(one, one) for one in plain)
