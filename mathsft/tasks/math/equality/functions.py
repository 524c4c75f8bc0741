"""The functions that an answer may use: exact if the exact value is known, otherwise left unevaluated."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

from mathsft.tasks.math.equality.algebra import (
    ExactValue,
    atom,
    number,
    power,
    rational_power,
    same_value,
    sign,
    unevaluated,
)
from mathsft.tasks.math.equality.polynomials import IMAGINARY, MAX_BITS, PI, CannotComputeError, E, NoValueError, factors

_MAX_FACTORIAL = 1_500
"""1,500! has as many digits as the longest integer."""


def sqrt(argument: ExactValue) -> ExactValue:
    """Return the square root."""
    return rational_power(argument, Fraction(1, 2))


def log(argument: ExactValue) -> ExactValue:
    """Return the natural logarithm, expanded into a sum for a product; symbols are assumed to be positive."""
    if argument.rational == 0:
        raise NoValueError("the logarithm of 0")
    if argument.term is None:
        return unevaluated("log", argument)
    powers, coefficient = argument.term
    if coefficient < 0:
        raise NoValueError("the logarithm of a negative number")
    result = number(0)
    for prime, times in factors(coefficient).items():
        result += number(times) * unevaluated("log", number(prime))
    for single, exponent in powers:
        result += number(exponent) * (number(1) if single == E else unevaluated("log", atom(single)))
    return result


def log_to_base(base: ExactValue, argument: ExactValue) -> ExactValue:
    """Return the logarithm to a base; raises NoValueError for the base 1."""
    return log(argument) / log(base)


def cos(argument: ExactValue) -> ExactValue:
    """Return the cosine, exact at the multiples of π whose cosine is a sum of square roots."""
    exact = _exact_cosine(argument)
    return exact if exact is not None else unevaluated("cos", _without_minus(argument)[1])


def sin(argument: ExactValue) -> ExactValue:
    """Return the sine, exact if the cosine of π/2 minus the argument is exact."""
    exact = _exact_cosine(argument, Fraction(1, 2))
    if exact is not None:
        return exact
    factor, positive = _without_minus(argument)
    return number(factor) * unevaluated("sin", positive)


def power_with_euler(base: ExactValue, exponent: ExactValue) -> ExactValue:
    """Return base ** exponent; e to i times an angle by Euler's formula if the angle's cosine and sine are exact."""
    if base == atom(E):
        angle = exponent / atom(IMAGINARY)
        real, imaginary = _exact_cosine(angle), _exact_cosine(angle, Fraction(1, 2))
        if real is not None and imaginary is not None:
            return real + atom(IMAGINARY) * imaginary
    return power(base, exponent)


def absolute(argument: ExactValue) -> ExactValue:
    """Return the absolute value."""
    argument_sign = sign(argument)
    if argument_sign is None:
        return unevaluated("abs", _without_minus(argument)[1])
    return number(argument_sign) * argument


def floor(argument: ExactValue) -> ExactValue:
    """Return the greatest integer that is not above the argument."""
    rational = argument.rational
    return unevaluated("floor", argument) if rational is None else number(math.floor(rational))


def ceil(argument: ExactValue) -> ExactValue:
    """Return the least integer that is not below the argument."""
    return -floor(-argument)


def factorial(argument: ExactValue) -> ExactValue:
    """Return the factorial of a natural number."""
    rational = argument.rational
    if rational is None:
        return unevaluated("factorial", argument)
    if rational < 0 or rational.denominator != 1:
        raise NoValueError("the factorial of a number that is not natural")
    if rational > _MAX_FACTORIAL:
        raise NoValueError("factorial")
    return number(math.factorial(int(rational)))


def binomial(whole: ExactValue, part: ExactValue) -> ExactValue:
    """Return the binomial coefficient of natural numbers."""
    n, k = whole.rational, part.rational
    if n is None or k is None or n.denominator != 1 or k.denominator != 1 or min(n, k) < 0:
        return unevaluated("binomial", whole, part)
    if int(n).bit_length() * min(k, abs(n - k)) > MAX_BITS:
        raise NoValueError("binomial coefficient")
    return number(math.comb(int(n), int(k)))


def _exact_cosine(argument: ExactValue, shift: Fraction = Fraction(0)) -> ExactValue | None:
    """Return the cosine of argument - shift * π, or None if it is not known exactly."""
    half_turns = (argument / atom(PI)).rational
    return None if half_turns is None else _cosine_of_half_turns(half_turns - shift)


def _cosine_of_half_turns(half_turns: Fraction) -> ExactValue | None:
    half_turns %= 2
    half_turns = min(half_turns, 2 - half_turns)
    if half_turns > Fraction(1, 2):
        exact = _cosine_of_half_turns(1 - half_turns)
        return None if exact is None else -exact
    if half_turns.denominator in (1, 2):
        return number(1 - 2 * half_turns)
    # cos²(a) = (1 + cos(2a)) / 2 gives nested roots, except for these angles.
    quarter, root_2, root_5, root_6 = number(Fraction(1, 4)), sqrt(number(2)), sqrt(number(5)), sqrt(number(6))
    return {
        Fraction(1, 12): quarter * (root_6 + root_2),
        Fraction(1, 6): sqrt(number(3)) / number(2),
        Fraction(1, 5): quarter * (root_5 + number(1)),
        Fraction(1, 4): root_2 / number(2),
        Fraction(1, 3): number(Fraction(1, 2)),
        Fraction(2, 5): quarter * (root_5 - number(1)),
        Fraction(5, 12): quarter * (root_6 - root_2),
    }.get(half_turns)


def _without_minus(argument: ExactValue) -> tuple[Fraction, ExactValue]:
    """Return 1 or -1, and the argument times that number: the same product for an argument and its negative."""
    negated = -argument
    return (Fraction(1), argument) if str(argument) >= str(negated) else (Fraction(-1), negated)


def _tan(argument: ExactValue) -> ExactValue:
    return sin(argument) / cos(argument)


def _inverse(function: Callable[[ExactValue], ExactValue], name: str, from_twelfth: int, argument: ExactValue) -> ExactValue:
    """Apply the inverse of a function of angles, exact for 13 angles: from_twelfth * π/12 and the next 12 twelfths of π."""
    if argument.symbols or any(atom.function for atom in argument.atoms):
        return unevaluated(name, argument)
    for twelfths in range(from_twelfth, from_twelfth + 13):
        angle = number(Fraction(twelfths, 12)) * atom(PI)
        try:
            if same_value(function(angle), argument):
                return angle
        except (CannotComputeError, NoValueError):
            continue
    return unevaluated(name, argument)


FUNCTIONS: dict[str, Callable[[ExactValue], ExactValue]] = {
    "sin": sin,
    "cos": cos,
    "tan": _tan,
    "cot": lambda argument: cos(argument) / sin(argument),
    "sec": lambda argument: number(1) / cos(argument),
    "csc": lambda argument: number(1) / sin(argument),
    "cis": lambda argument: cos(argument) + atom(IMAGINARY) * sin(argument),
    "arcsin": partial(_inverse, sin, "arcsin", -6),
    "arccos": partial(_inverse, cos, "arccos", 0),
    "arctan": partial(_inverse, _tan, "arctan", -6),
    "ln": log,
    "log": lambda argument: log_to_base(number(10), argument),
    "lg": lambda argument: log_to_base(number(10), argument),
    "exp": lambda argument: power_with_euler(atom(E), argument),
    "sqrt": sqrt,
    "abs": absolute,
}
"""Functions by name; the name has a backslash in LaTeX and none in plain text."""
ANGLE_FUNCTIONS = ("sin", "cos", "tan", "cot", "sec", "csc", "cis")
