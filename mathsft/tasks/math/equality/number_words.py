"""Converts a number in words to digits: twenty-five, three hundred and six, two thirds."""

import re

_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {
    **{word: value for value, word in enumerate(_SMALL.split())},
    **{word: 10 * (value + 2) for value, word in enumerate(_TENS)},
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PARTS = {
    **dict.fromkeys(("half", "halves"), 2),
    **dict.fromkeys(("quarter", "quarters"), 4),
    **{name + plural: value for value, name in enumerate(_ORDINALS, 3) for plural in ("", "s")},
}
_WORD = "|".join([*_VALUES, *_SCALES])
_NUMBER = re.compile(
    rf"(?P<number>(?:{'|'.join(_VALUES)})\b(?:(?: and |[ -])(?:{_WORD})\b)*)(?:[ -](?P<part>{'|'.join(_PARTS)})\b)?",
    re.IGNORECASE,
)
_AND = re.compile(r"(?<!hundred)(?<!thousand) and ", re.IGNORECASE)


def without_number_words(text: str) -> str:
    """Return the text with a number in words at its beginning replaced by digits."""
    found = _NUMBER.match(text)
    if not found:
        return text
    # "five and six" is two numbers, "one hundred and six" is one.
    number = _AND.split(found["number"])[0]
    if len(number) < len(found["number"]):
        return f"{_value(number)}{text[found.start() + len(number) :]}"
    part = f"/{_PARTS[found['part'].lower()]}" if found["part"] else ""
    return f"{_value(number)}{part}{text[found.end() :]}"


def _value(words: str) -> int:
    total = current = 0
    for word in re.split(r"[ -]", words.lower()):
        if word in _VALUES:
            current += _VALUES[word]
        elif word == "hundred":
            current *= _SCALES[word]
        elif word in _SCALES:
            total, current = total + current * _SCALES[word], 0
    return total + current
