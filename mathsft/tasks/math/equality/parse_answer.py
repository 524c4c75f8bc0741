r"""Parses normalised text into a structure: lists, sets, points, intervals, unions, ratios, matrices, choices, words.

`quantities` parses numbers and formulas, `relations` equations and inequalities.
"""

import re
from collections.abc import Callable

from mathsft.tasks.math.equality.algebra import ExactValue
from mathsft.tasks.math.equality.brackets import BRACKET, nesting, outer_brackets, split_outside_brackets
from mathsft.tasks.math.equality.functions import FUNCTIONS
from mathsft.tasks.math.equality.number_words import without_number_words
from mathsft.tasks.math.equality.polynomials import NoValueError
from mathsft.tasks.math.equality.quantities import ParsedAnswer, Quantity, parse_based_number, parse_quantity
from mathsft.tasks.math.equality.relations import intersection, is_interval, parse_relation, real_line_without
from mathsft.tasks.math.equality.spelling import whole_text, without_text_commands
from mathsft.tasks.math.equality.structures import (
    Choice,
    IntegerFamily,
    Items,
    Matrix,
    Named,
    NoValue,
    Text,
    TimeOfDay,
    Unparsed,
    text_key,
)

_MAX_NESTING = 20
_MAX_ITEMS = 50

_CONJUNCTION = r"(?:(?:and|or) )?"
_WIDE_SEPARATOR = re.compile(rf"{BRACKET}|, {_CONJUNCTION}|; ?{_CONJUNCTION}| (?:and|or) ")
_ANY_SEPARATOR = re.compile(rf"{BRACKET}|, ?{_CONJUNCTION}|; ?{_CONJUNCTION}| (?:and|or) ")
_UNION = re.compile(rf"{BRACKET}| ?\\cup(?![A-Za-z]) ?| U ")
_COLON = re.compile(rf"{BRACKET}| ?: ?| to ")

_MATRIX = re.compile(
    r"(?P<factor>[^&]{0,100}?) ?[(\[]? ?\\begin\{(?P<kind>[pbBvV]?matrix|smallmatrix|array)\}(?:\{[lcr| ]{0,40}\})?"
    r"(?P<cells>.*)\\end\{(?P=kind)\} ?[)\]]?"
)
_SYSTEM = re.compile(
    r"(?:⦃ ?\\begin\{array\}(?:\{[lcr| ]{0,40}\})?|⦃? ?\\begin\{(?:cases|aligned|gathered)\})"
    r"(?P<rows>.*)\\end\{(?:cases|array|aligned|gathered)\} ?[.⦄]?"
)
_ROW_OF_SYSTEM = re.compile(r"[^&,]*(?:&? ?(?:=|<|>|\\(?:le|ge|ne|in)(?![A-Za-z]))&? ?)[^&,]*[,.;]? ?")
_TRANSPOSED = re.compile(r"(?P<inside>.*[)\]}]) ?\^ ?\{? ?(?:\\text\{ ?T ?\}|T|\\top|\\intercal) ?\}?")
_TIME_OF_DAY = re.compile(r"(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-5][0-9]))? ?(?P<half>[ap])\.? ?m\.?", re.IGNORECASE)
_CHOICE = re.compile(r"(?:\((?P<round>[A-H])\)|(?P<bare>[A-H])(?:\)|[.:](?= ))) ?(?P<rest>.+)")
_LEAD_WORDS = (
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?"
    r"(?:(?:final |correct )?answer(?: is ?:?|:)|(?:option|choice)(?= (?:\\text\{)?\(?[A-Ha-h]\b))"
)
_LEAD = re.compile(rf"(?:(?:\\text\{{{_LEAD_WORDS}\}}|{_LEAD_WORDS}|=(?![=<>])) ?)++", re.IGNORECASE)
_REALS = re.compile(r"\\mathbb ?\{? ?R ?\}?|(?:the set of )?(?:all )?real numbers|(?:all |the )?reals", re.IGNORECASE)
_PUNCTURED = re.compile(r"\\mathbb ?\{? ?R ?\}? ?\\(?:setminus|backslash) ?⦃(?P<point>[^⦃⦄,]+)⦄")
_EMPTY = re.compile(r"\\emptyset|⦃ ?⦄|no (?:real )?solutions?|(?:the )?empty set", re.IGNORECASE)
_SET_BUILDER = re.compile(r"[A-Za-z](?: ?\\in ?\\mathbb ?\{? ?R ?\}?)? ?[|:] ?(?P<condition>.+)")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|\+/-|\+-")
_MINUS_PLUS = re.compile(r"\\mp(?![A-Za-z])")
_TIME = re.compile(r"[0-9]{1,2}(?: ?: ?[0-5][0-9]){1,2}(?![0-9.:/])")
_EACH = r"(?:for |where |with |and )?(?:\\forall |(?:all|any|each|every|some|an) )?"
_ALL_INTEGERS = (
    rf"{_EACH}(?:(?P<letter>[A-Za-z])(?: ?\\in ?(?:\\mathbb ?)?\{{? ?\\?Z ?\}}?(?! ?[\^_])"
    r"| (?:(?:is|are|being|an?|any|some|arbitrary) ){0,3}integers?| ?= ?0(?:, ?\\pm ?[123]){2,3}, ?\.\.\.)"
    r"|integers? (?P<named>[A-Za-z]))"
)
_INTEGERS_FIRST = re.compile(rf"\(?{_ALL_INTEGERS}[),;: ]{{1,4}}")
_INTEGERS_LAST = re.compile(rf"[ ,;|:(]{{1,4}}{_ALL_INTEGERS}\)?$")
_TOKEN = re.compile(r"\\?[A-Za-z]+")
_COMMA_IN_NUMBER = re.compile(r"[0-9],[0-9]{3}")
_HEDGE = re.compile(r"\\approx|\\sim(?![A-Za-z])|\?|\.\.\.|\\(?:boxed|def|\\)|(?<=[0-9]) (?=[0-9])|\b(?i:or|not|by)\b")
_UNBOUNDED = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])(?=.*(?:[0-9]{5}|[0-9]{2} ?\^))")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{4,}")


def parsed_answers(text: str) -> list[ParsedAnswer]:
    """Return all meanings of normalised text: 100,200 is one number or two. Never raises."""
    if nesting(text) > _MAX_NESTING or _UNBOUNDED.search(text):
        return [NoValue(text)]
    spellings = [text, text.replace("!=", r"\ne ")] if "!=" in text else [text]
    options = (True, False) if _COMMA_IN_NUMBER.search(text) else (True,)
    return [_Parser(commas_group=commas_group).parse(spelling) for commas_group in options for spelling in spellings]


class _Parser:
    """Tries to read a text as each kind of answer in turn; the limit on the text's nesting bounds the recursion."""

    def __init__(self, *, commas_group: bool) -> None:
        self._commas_group = commas_group

    def parse(self, text: str) -> ParsedAnswer:
        parsers: tuple[Callable[[str], ParsedAnswer | None], ...] = (
            self._parse_after_lead,
            self._parse_family,
            self._parse_number_words,
            self._parse_whole_text,
            self._parse_choice,
            parse_based_number,
            self._parse_quantity,
            _parse_time_of_day,
            self._parse_well_known_set,
            self._parse_matrix,
            self._parse_system,
            self._parse_transposed,
            self._parse_list,
            self._parse_plus_minus,
            self._parse_bracketed,
            self._parse_relation,
            self._parse_union,
            self._parse_ratio,
        )
        try:
            for parse in parsers:
                if (parsed := parse(text)) is not None:
                    return parsed
        except NoValueError:
            return NoValue(text.replace(" ", ""))
        return Text(text_key(text)) if _is_prose(text) else Unparsed(text.replace(" ", ""))

    def _parse_after_lead(self, text: str) -> ParsedAnswer | None:
        lead = _LEAD.match(text)
        return self.parse(text[lead.end() :]) if lead and lead.end() < len(text) else None

    def _parse_family(self, text: str) -> ParsedAnswer | None:
        r"""Parse "x = k\pi, k \in \mathbb{Z}", with the condition first or last, and rename the integer to k."""
        words = without_text_commands(text)
        found = _INTEGERS_LAST.search(words) or _INTEGERS_FIRST.match(words)
        if not found:
            return None
        letter = found["letter"] or found["named"]
        values = (words[: found.start()] or words[found.end() :]).strip()
        letters = {token for token in _TOKEN.findall(values) if len(token) == 1}
        if letter not in letters or _INTEGERS_LAST.search(values) or _INTEGERS_FIRST.match(values):
            return None
        name = letter if "k" in letters else "k"
        return IntegerFamily(name, self.parse(_TOKEN.sub(lambda token: name if token[0] == letter else token[0], values)))

    def _parse_number_words(self, text: str) -> ParsedAnswer | None:
        in_digits = without_number_words(text)
        return None if in_digits == text else self.parse(in_digits)

    def _parse_whole_text(self, text: str) -> ParsedAnswer | None:
        words = whole_text(text)
        if not words:
            return None
        parsed = self.parse(words)
        is_word = isinstance(parsed, Unparsed) or (isinstance(parsed, Quantity) and parsed.value.symbols)
        return Text(text_key(words)) if is_word else parsed

    def _parse_quantity(self, text: str) -> ParsedAnswer | None:
        return parse_quantity(text, commas_group=self._commas_group)

    def _parse_well_known_set(self, text: str) -> ParsedAnswer | None:
        if _REALS.fullmatch(text):
            return real_line_without()
        if punctured := _PUNCTURED.fullmatch(text):
            point = self._parse_quantity(punctured["point"])
            return real_line_without(point.value) if isinstance(point, Quantity) else None
        return Items("⦃⦄", ()) if _EMPTY.fullmatch(text) else None

    def _parse_choice(self, text: str) -> ParsedAnswer | None:
        choice = _CHOICE.fullmatch(without_text_commands(text))
        if not choice or _CHOICE.fullmatch(choice["rest"]):
            return None
        return Choice((choice["round"] or choice["bare"]).casefold(), self.parse(choice["rest"]))

    def _parse_matrix(self, text: str) -> ParsedAnswer | None:
        matrix = _MATRIX.fullmatch(text)
        if not matrix or r"\begin" in matrix["cells"]:
            return None
        factor = self._parse_quantity(matrix["factor"] or "1")
        if not isinstance(factor, Quantity):
            return None
        rows = [row for row in matrix["cells"].split(r"\\") if row.strip()]
        cells = tuple(tuple(_times(factor.value, self.parse(cell.strip())) for cell in row.split("&")) for row in rows)
        return Matrix(matrix["kind"].startswith(("v", "V")), cells)

    def _parse_system(self, text: str) -> ParsedAnswer | None:
        """Parse a system of equations, one per row, as a list; the branches of a piecewise function are no system."""
        system = _SYSTEM.fullmatch(text)
        rows = [row.strip() for row in system["rows"].split(r"\\") if row.strip()] if system else []
        if len(rows) < 2 or not all(map(_ROW_OF_SYSTEM.fullmatch, rows)):
            return None
        return self._parse_list(", ".join(row.replace("&", "").rstrip(" ,.;") for row in rows))

    def _parse_transposed(self, text: str) -> ParsedAnswer | None:
        transposed = _TRANSPOSED.fullmatch(text)
        inside = self.parse(transposed["inside"]) if transposed else None
        match inside:
            case Matrix(False, rows) if len({len(row) for row in rows}) == 1:
                return Matrix(False, tuple(zip(*rows, strict=True)))
            case Items("()" | "[]", items) if not any(isinstance(item, Items) for item in items):
                return Matrix(False, tuple((item,) for item in items))
        return None

    def _parse_union(self, text: str) -> ParsedAnswer | None:
        parts = _split(text, _UNION)
        return Items("∪", tuple(self.parse(part) for part in parts)) if len(parts) > 1 else None

    def _parse_list(self, text: str) -> ParsedAnswer | None:
        # Split only at wide separators (", ", "and") if there are any, so 1,000 stays.
        parts = _split(text, _WIDE_SEPARATOR) if self._commas_group else [text]
        parts = parts if len(parts) > 1 else _split(text, _ANY_SEPARATOR)
        if len(parts) == 1:
            return None
        # A part may be a list itself: "1,2" in "1,2 and 3", which was split at its wide separator, or ±2.
        items = [item for part in parts for item in _items_of(self.parse(part))]
        if len(items) > _MAX_ITEMS:
            return Text(text)
        return (None if " or " in text else intersection(items)) or _list_of(items, is_union=" or " in text)

    def _parse_plus_minus(self, text: str) -> ParsedAnswer | None:
        # In a set, ± stands for two elements, not for two sets.
        if len(_PLUS_MINUS.findall(text)) != 1 or "⦃" in text:
            return None
        upper = _MINUS_PLUS.sub("-", _PLUS_MINUS.sub("+", text))
        lower = _MINUS_PLUS.sub("+", _PLUS_MINUS.sub("-", text))
        return _list_of([self.parse(upper), self.parse(lower)], is_union=False)

    def _parse_bracketed(self, text: str) -> ParsedAnswer | None:
        brackets = outer_brackets(text)
        if not brackets:
            return None
        content = text[1:-1].strip()
        if brackets == "⦃⦄" and (builder := _SET_BUILDER.fullmatch(content)):
            condition = self.parse(builder["condition"])
            if isinstance(condition, Named):
                return condition.content
            return condition if isinstance(condition, IntegerFamily) else None
        if brackets == "⦃⦄" and (family := self._parse_family(content)):
            return family
        inside = self._parse_list(content) or self.parse(content)
        if isinstance(inside, Items) and not inside.brackets:
            return Items("()" if brackets == "⟨⟩" else brackets, inside.items)
        # Parentheses around one answer are redundant; other brackets make a set of one element.
        return inside if brackets == "()" else Items(brackets, (inside,))

    def _parse_relation(self, text: str) -> ParsedAnswer | None:
        relation = parse_relation(text, commas_group=self._commas_group, parse=self.parse)
        match relation:
            case Named(name, IntegerFamily(letter, content)):
                return IntegerFamily(letter, Named(name, content))
        return relation

    def _parse_ratio(self, text: str) -> ParsedAnswer | None:
        text = without_text_commands(text)
        parts = [self._parse_quantity(part) for part in _split(text, _COLON)]
        terms = tuple(part for part in parts if part is not None)
        return Items("h:m" if _TIME.match(text) else ":", terms) if 1 < len(parts) == len(terms) else None


def _times(factor: ExactValue, cell: ParsedAnswer) -> ParsedAnswer:
    return Quantity(factor * cell.value) if isinstance(cell, Quantity) and factor.rational != 1 else cell


def _parse_time_of_day(text: str) -> ParsedAnswer | None:
    time = _TIME_OF_DAY.fullmatch(without_text_commands(text))
    if not time or not 1 <= int(time["hour"]) <= 12:
        return None
    hour = int(time["hour"]) % 12 + (12 if time["half"] in "pP" else 0)
    return TimeOfDay(60 * hour + int(time["minute"] or 0))


def _items_of(parsed: ParsedAnswer) -> list[ParsedAnswer]:
    """Return the items of a list without brackets, each with the list's name; for any other answer, the answer alone."""
    if isinstance(parsed, Named) and isinstance(parsed.content, Items) and not parsed.content.brackets:
        return [Named(parsed.name, item) for item in parsed.content.items]
    return list(parsed.items) if isinstance(parsed, Items) and not parsed.brackets else [parsed]


def _list_of(items: list[ParsedAnswer], *, is_union: bool) -> ParsedAnswer:
    """Return a list; a single name ("x = 1, x = 2" or "x = 1, 2") names the list, several names stay on their items."""
    names = {item.name for item in items if isinstance(item, Named)}
    if len(names) == 1:
        items = [item.content if isinstance(item, Named) else item for item in items]
    parsed = Items("∪" if is_union and all(map(is_interval, items)) else "", tuple(items))
    return Named(names.pop(), parsed) if len(names) == 1 else parsed


def _is_prose(text: str) -> bool:
    """Return whether text that cannot be read is words, a hedge or unbalanced brackets, rather than mathematics."""
    words = _WORD.findall(_COMMAND.sub(" ", without_text_commands(text)))
    count = text.count
    is_balanced = count("{") == count("}") and count("(") + count("[") == count(")") + count("]")
    return any(word not in FUNCTIONS for word in words) or _HEDGE.search(text) is not None or not is_balanced


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split where the separator matches outside brackets; do not split if a part would be empty."""
    parts, _ = split_outside_brackets(text, separator)
    return parts if all(parts) else [text]
