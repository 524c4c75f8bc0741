"""Finds problems that share most of their 13-grams with a problem of another pool.

A gram is 13 words or symbols in a row, as in the contamination checks of GPT-3's and Llama's reports. A shorter text has
one gram, all of it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mathsft.data.folding import pool_key

NUM_WORDS = 13
LEAST_SHARE = 0.8
"""Share of the grams of the shorter text that both must have."""

_WORD = re.compile(r"[^\W_]+|[^\s]")


@dataclass(frozen=True)
class NearCopy:
    """A text of the index that shares grams with another text."""

    text: str
    share: float


class NearCopies:
    """An index of texts by their grams."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._nums_grams = list(texts), list[int]()
        self._places: dict[str, list[int]] = {}
        for place, text in enumerate(self._texts):
            grams = _grams(text)
            self._nums_grams.append(len(grams))
            for gram in grams:
                self._places.setdefault(gram, []).append(place)

    def of(self, text: str) -> NearCopy | None:
        """Return the text of the index that shares the largest share of grams, at least LEAST_SHARE; None without one."""
        if not self._texts:
            return None
        grams = _grams(text)
        shared = Counter(place for gram in grams for place in self._places.get(gram, ()))
        shares = {place: num / min(len(grams), self._nums_grams[place]) for place, num in shared.items()}
        if not shares:
            return None
        best = max(shares, key=lambda place: (shares[place], -place))
        return NearCopy(self._texts[best], shares[best]) if shares[best] >= LEAST_SHARE else None


def _grams(text: str) -> set[str]:
    words = _WORD.findall(pool_key(text))
    return {" ".join(words[start : start + NUM_WORDS]) for start in range(max(1, len(words) - NUM_WORDS + 1))}
