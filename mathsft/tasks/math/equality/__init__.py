"""Compares two mathematical answers by value: the one entry point of this library.

Its rules use exact arithmetic of bounded size, and neither eval nor a computer algebra system.
"""

from mathsft.tasks.math.equality.comparison import comparable, decide, equal, is_number
from mathsft.tasks.math.equality.spelling import normalise

__all__ = ["comparable", "decide", "equal", "is_number", "normalise"]
