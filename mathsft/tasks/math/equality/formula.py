r"""Parses a formula in normalised LaTeX or plain text into an exact value; refuses notation that it does not support.

It supports `numerals`, + - * / ^ !, juxtaposition, \frac, roots, bars, functions, and Latin and Greek letters with
subscripts. It limits nesting; `algebra` limits sizes.
"""

import re
from collections.abc import Callable

from mathsft.tasks.math.equality.algebra import ExactValue, atom, number, power, symbol
from mathsft.tasks.math.equality.functions import (
    ANGLE_FUNCTIONS,
    FUNCTIONS,
    absolute,
    binomial,
    ceil,
    factorial,
    floor,
    log_to_base,
    power_with_euler,
    sqrt,
)
from mathsft.tasks.math.equality.numerals import parse_numeral
from mathsft.tasks.math.equality.polynomials import PI, CannotComputeError

_MAX_DEPTH = 30

_SUM_SIGN = re.compile(r"[+-]")
_TIMES = re.compile(r"\*|\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\ast(?![A-Za-z])")
_DIVIDED = re.compile(r"/|\\div(?![A-Za-z])")
_NO_FACTOR = re.compile(r"\\(?:rfloor|rceil|times|cdot|ast|div)(?![A-Za-z])")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_NAME_OR_BRACKET = re.compile(r"\\?([A-Za-z]+)|[(\[|]")
_WORD = re.compile(r"([A-Za-z]+)")
_SUBSCRIPT = re.compile(r" ?_ ?\{([A-Za-z0-9]{1,10})\}")
_LETTER_IN_TEXT = re.compile(r"\\text\{([A-Za-z])\}")
_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi
omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell infty
"""
_BARS = {"|": "|", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", "(": ")", "[": "]", "{": "}"}
_PLAIN_NAMES = {"pi": "pi", "infinity": "infty", "inf": "infty", "oo": "infty"}
_FUNCTIONS_OF_LETTERS = "fgh"
_SHORT_WORDS = ("and", "or", "not", "to", "by", "is", "the", "all", "any", "are", "if", "no", "per")
_MAX_LETTERS = 3
"""Longer runs of letters are words, not products."""


class NotAFormulaError(ValueError):
    """The text is not a formula, or uses notation that is not supported."""


def parse_formula(text: str, *, commas_group: bool) -> ExactValue:
    """Return the value of the whole normalised text. Raises NotAFormulaError, or NoValueError if it has no value.

    With `commas_group`, 1,234 is one number; without it, a formula has no commas.
    """
    try:
        return _Parser(text, commas_group).whole()
    except CannotComputeError as error:
        raise NotAFormulaError(str(error)) from error


class _Parser:
    """A recursive descent parser with one method per level of precedence: sums, products, signs, powers."""

    def __init__(self, text: str, commas_group: bool) -> None:
        self._text = text
        self._commas_group = commas_group
        self._place = self._depth = self._open_bars = 0
        self._angles_are_radians = False

    def whole(self) -> ExactValue:
        value = self._sum()
        self._skip_space()
        if self._place < len(self._text):
            raise NotAFormulaError(self._text[self._place :])
        return value

    def _sum(self) -> ExactValue:
        total = self._product()
        while found := self._take(_SUM_SIGN):
            term = self._product()
            total = total + term if found[0] == "+" else total - term
        return total

    def _product(self) -> ExactValue:
        product = self._signed()
        while True:
            if self._take(_TIMES):
                product *= self._signed()
            elif self._take(_DIVIDED):
                product /= self._signed()
            elif self._begins_factor():
                self._check_no_number_touches()
                product *= self._power()
            else:
                return product

    def _signed(self) -> ExactValue:
        sign = 1
        while found := self._take(_SUM_SIGN):
            sign = -sign if found[0] == "-" else sign
        return number(sign) * self._power()

    def _power(self) -> ExactValue:
        """Parse an atom with its factorials, degree sign and exponents, which associate to the right."""
        operands = [self._factorials(self._atom())]
        while self._take_text("^"):
            operands.append(self._factorials(self._argument()))
        value = operands.pop()
        while operands:
            value = power_with_euler(operands.pop(), value)
        return self._factorials(value)

    def _factorials(self, value: ExactValue) -> ExactValue:
        while True:
            if self._take_text("!"):
                value = factorial(value)
            elif self._take_text("°"):
                value = value * atom(PI) / number(180) if self._angles_are_radians else value
            else:
                return value

    def _atom(self) -> ExactValue:
        """Parse the smallest unit: a number, a letter, a command or a group."""
        return self._nested(self._parse_atom)

    def _nested(self, parse: Callable[[], ExactValue]) -> ExactValue:
        """Parse one level deeper; every recursion passes through this method, which limits the depth."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotAFormulaError("nesting")
        value = parse()
        self._depth -= 1
        return value

    def _parse_atom(self) -> ExactValue:
        self._skip_space()
        if numeral := parse_numeral(self._text, self._place, commas_group=self._commas_group):
            value, self._place = numeral
            return number(value)
        here = self._text[self._place : self._place + 1]
        if here and here in "([{|":
            return self._group(here)
        for pattern, parse in ((_LETTER_IN_TEXT, self._letter), (_COMMAND, self._command), (_WORD, self._word)):
            if found := self._take(pattern):
                return parse(found[1])
        raise NotAFormulaError(self._text)

    def _group(self, opening: str) -> ExactValue:
        self._place += len(opening)
        self._open_bars += opening == "|"
        value = self._sum()
        self._open_bars -= opening == "|"
        if not self._take_text(_BARS[opening]):
            raise NotAFormulaError(self._text)
        functions: dict[str, Callable[[ExactValue], ExactValue]] = {"|": absolute, r"\lfloor": floor, r"\lceil": ceil}
        return functions[opening](value) if opening in functions else value

    def _argument(self) -> ExactValue:
        """Parse the argument of a command or of ^: a group, or a single number, letter or command, with its sign."""
        self._skip_space()
        if self._text.startswith(("+", "-"), self._place):
            return self._nested(self._signed)
        return self._atom()

    def _command(self, name: str) -> ExactValue:
        if name == "frac":
            return self._argument() / self._argument()
        if name == "sqrt" and self._take_text("["):
            degree = self._sum()
            if not self._take_text("]"):
                raise NotAFormulaError(self._text)
            return power(self._argument(), number(1) / degree)
        if name == "sqrt":
            return sqrt(self._argument())
        if name == "binom":
            return binomial(self._argument(), self._argument())
        if name in ("lfloor", "lceil"):
            self._place -= len(name) + 1
            return self._group(f"\\{name}")
        if name == "pi":
            return symbol(r"\pi")
        if name in FUNCTIONS:
            return self._function(name)
        if name in _GREEK.split():
            return self._subscripted(f"\\{name}")
        raise NotAFormulaError(name)

    def _word(self, word: str) -> ExactValue:
        """Parse letters: a function, a name, or the product of at most three symbols."""
        if word in FUNCTIONS:
            return self._function(word)
        if word in _PLAIN_NAMES:
            return self._command(_PLAIN_NAMES[word])
        if len(word) > _MAX_LETTERS or word in _SHORT_WORDS:
            raise NotAFormulaError(word)
        # Read only the first letter here: an exponent after the word belongs to the last letter.
        self._place -= len(word) - 1
        return self._letter(word[0])

    def _letter(self, letter: str) -> ExactValue:
        if letter in ("i", "e"):
            return symbol(letter)
        if letter in _FUNCTIONS_OF_LETTERS and self._text.startswith("(", self._place):
            return symbol(f"{letter}({self._group('(')})")
        return self._subscripted(letter)

    def _subscripted(self, name: str) -> ExactValue:
        subscript = self._take(_SUBSCRIPT)
        return symbol(f"{name}_{subscript[1]}" if subscript else name)

    def _function(self, name: str) -> ExactValue:
        base = self._argument() if name == "log" and self._take_text("_") else None
        exponent = self._argument() if self._take_text("^") else number(1)
        if exponent.rational == -1:
            name, exponent = f"arc{name}", number(1)
        if name not in FUNCTIONS:
            raise NotAFormulaError(name)
        outer, self._angles_are_radians = self._angles_are_radians, name in ANGLE_FUNCTIONS
        argument = self._function_argument()
        self._angles_are_radians = outer
        value = FUNCTIONS[name](argument) if base is None else log_to_base(base, argument)
        return power(value, exponent)

    def _function_argument(self) -> ExactValue:
        """Parse a group, or a product that ends at a sum, a bracket or another function: sin 2x cos x."""
        self._skip_space()
        if self._text.startswith(("(", "[", "{", "|"), self._place):
            return self._atom()
        argument = self._signed()
        while self._begins_factor() and not self._begins_function():
            argument *= self._power()
        return argument

    def _begins_function(self) -> bool:
        found = _NAME_OR_BRACKET.match(self._text, self._place)
        return bool(found and (found[1] is None or found[1] in FUNCTIONS))

    def _begins_factor(self) -> bool:
        self._skip_space()
        here = self._text[self._place : self._place + 1]
        if here == "|":
            return self._open_bars == 0
        if here == "\\":
            return not _NO_FACTOR.match(self._text, self._place)
        return bool(here) and (here.isalnum() or here in "([{.")

    def _check_no_number_touches(self) -> None:
        """Refuse "2 3" and "x2": an operator between the two is missing."""
        before = self._text[: self._place].rstrip()[-1:]
        if before.isalnum() and (self._text[self._place].isdigit() or self._text[self._place] == "."):
            raise NotAFormulaError("a number that touches what precedes it")

    def _skip_space(self) -> None:
        while self._text.startswith(" ", self._place):
            self._place += 1

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._skip_space()
        if found := pattern.match(self._text, self._place):
            self._place = found.end()
        return found

    def _take_text(self, text: str) -> bool:
        self._skip_space()
        is_there = self._text.startswith(text, self._place)
        self._place += len(text) * is_there
        return is_there
