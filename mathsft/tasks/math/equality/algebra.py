"""Exact arithmetic on quotients of polynomials in symbols, π, e, i, roots of primes and functions that stay unevaluated.

Two values are equal if the difference of their cross products is zero, term by term. Sums are expanded; nothing is factored
or searched for. All sizes are limited.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

from mathsft.tasks.math.equality.approximation import CONSTANTS, approximation
from mathsft.tasks.math.equality.polynomials import (
    IMAGINARY,
    ONE,
    Atom,
    CannotComputeError,
    NoValueError,
    Polynomial,
    Powers,
    add,
    checked,
    factors,
    multiply,
    rational_whole_power,
    simplified,
    to_text,
)

_MAX_WHOLE_POWER_OF_SUM = 30
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ExactValue:
    """A quotient of two polynomials, the lower one never zero. It is not reduced: compare with `same_value` only."""

    upper: Polynomial
    lower: Polynomial = field(default_factory=lambda: ONE)

    def __add__(self, other: "ExactValue") -> "ExactValue":
        if self.lower == other.lower:
            return _quotient(add(self.upper, other.upper), self.lower)
        upper = add(multiply(self.upper, other.lower), multiply(other.upper, self.lower))
        return _quotient(upper, multiply(self.lower, other.lower))

    def __neg__(self) -> "ExactValue":
        return number(-1) * self

    def __sub__(self, other: "ExactValue") -> "ExactValue":
        return self + -other

    def __mul__(self, other: "ExactValue") -> "ExactValue":
        return _quotient(multiply(self.upper, other.upper), multiply(self.lower, other.lower))

    def __truediv__(self, other: "ExactValue") -> "ExactValue":
        return _quotient(multiply(self.upper, other.lower), multiply(self.lower, other.upper))

    def __str__(self) -> str:
        return to_text(self.upper) if self.lower == ONE else f"({to_text(self.upper)})/({to_text(self.lower)})"

    @property
    def rational(self) -> Fraction | None:
        """The value if it is a rational number, else None."""
        if not self.upper:
            return Fraction(0)
        is_rational = self.lower == ONE and self.upper.keys() == {()}
        return self.upper[()] if is_rational else None

    @property
    def term(self) -> tuple[Powers, Fraction] | None:
        """The term if the value is a single term, else None."""
        return next(iter(self.upper.items())) if self.lower == ONE and len(self.upper) == 1 else None

    @property
    def atoms(self) -> set[Atom]:
        """All atoms, including those in the arguments of functions."""
        outer = {atom for polynomial in (self.upper, self.lower) for powers in polynomial for atom, _ in powers}
        return outer.union(*(argument.atoms for atom in outer for argument in atom.arguments))

    @property
    def symbols(self) -> set[str]:
        """The names of variables: neither constants nor primes nor functions."""
        return {atom.name for atom in self.atoms if not (atom.prime or atom.function or atom.name in CONSTANTS)}

    def approximate(self) -> complex:
        """Return the value in floating point; raises ArithmeticError or ValueError if there is none."""
        return approximation(self.upper)[0] / approximation(self.lower)[0]


def number(value: Fraction | int) -> ExactValue:
    """Return a rational number as an ExactValue."""
    return ExactValue(checked({(): Fraction(value)})) if value else ExactValue({})


def atom(single: Atom) -> ExactValue:
    """Return an atom as an ExactValue."""
    return ExactValue({((single, Fraction(1)),): Fraction(1)})


def symbol(name: str) -> ExactValue:
    """Return a symbol as an ExactValue."""
    return atom(Atom(name))


def unevaluated(function: str, *arguments: ExactValue) -> ExactValue:
    """Return the function's value at the arguments as an atom."""
    return atom(Atom(f"{function}({', '.join(map(str, arguments))})", function, arguments))


def _quotient(upper: Polynomial, lower: Polynomial) -> ExactValue:
    """Return the quotient of two polynomials; a denominator of a single term is multiplied into the numerator."""
    if not lower:
        raise NoValueError("division by zero")
    if len(lower) > 1:
        return ExactValue(upper, lower)
    ((powers, coefficient),) = lower.items()
    inverse = tuple((atom, -exponent) for atom, exponent in powers)
    return ExactValue(checked(multiply(upper, simplified(inverse, 1 / coefficient))))


def same_value(first: ExactValue, second: ExactValue) -> bool | None:
    """Return whether the values are equal; None if functions are unevaluated and floating point shows no difference."""
    try:
        left, right = multiply(first.upper, second.lower), multiply(second.upper, first.lower)
    except (CannotComputeError, NoValueError):
        return None
    if left == right:
        return True
    if not any(atom.function for polynomial in (left, right) for powers in polynomial for atom, _ in powers):
        # Products of symbols, transcendental constants, i and roots of distinct primes are linearly independent.
        return False
    try:
        (value, size), (other_value, other_size) = approximation(left), approximation(right)
    except (ArithmeticError, ValueError):
        return None
    return False if abs(value - other_value) > _ROUNDING * (size + other_size) else None


def sign(value: ExactValue) -> int | None:
    """Return the sign of a real number; None if the value has symbols, is not real or is too close to zero."""
    rational = value.rational
    if rational is not None:
        return (rational > 0) - (rational < 0)
    if value.symbols:
        return None
    try:
        rounded = value.approximate()
    except (ArithmeticError, ValueError):
        return None
    if not abs(rounded.real) > _ROUNDING or abs(rounded.imag) > _ROUNDING:
        return None
    return 1 if rounded.real > 0 else -1


def power(base: ExactValue, exponent: ExactValue) -> ExactValue:
    """Return base ** exponent; symbols under a root are assumed to be positive."""
    rational = exponent.rational
    if rational is not None:
        return rational_power(base, rational)
    if exponent.lower != ONE or base.term is None:
        return unevaluated("power", base, exponent)
    result = number(1)
    for powers, coefficient in exponent.upper.items():
        if powers:
            result *= _symbolic_power(base.term, ExactValue({powers: Fraction(1)}), coefficient)
        else:
            result *= rational_power(base, coefficient)
    return result


def rational_power(base: ExactValue, exponent: Fraction) -> ExactValue:
    """Return base ** exponent; odd roots of negative numbers are real."""
    if max(abs(exponent.numerator), exponent.denominator).bit_length() > 64:
        raise NoValueError("exponent")
    if not base.upper:
        if exponent <= 0:
            raise NoValueError("0 to a power that is not positive")
        return base
    if base.term is not None:
        return _power_of_term(*base.term, exponent)
    if exponent.denominator == 1:
        if abs(exponent) > _MAX_WHOLE_POWER_OF_SUM:
            raise NoValueError("power of a sum")
        product = math.prod([base] * abs(exponent.numerator), start=number(1))
        return product if exponent >= 0 else number(1) / product
    if base.lower != ONE:
        return rational_power(ExactValue(base.upper), exponent) / rational_power(ExactValue(base.lower), exponent)
    return _root_of_sum(base, exponent)


def _power_of_term(powers: Powers, coefficient: Fraction, exponent: Fraction) -> ExactValue:
    raised = tuple((atom, power * exponent) for atom, power in powers)
    if exponent.denominator == 1:
        return ExactValue(simplified(raised, rational_whole_power(coefficient, int(exponent))))
    result = simplified(raised, Fraction(1))
    if coefficient < 0 and exponent.denominator % 2:
        result = multiply(result, {(): Fraction(-1 if exponent.numerator % 2 else 1)})
    elif coefficient < 0:
        result = multiply(result, simplified(((IMAGINARY, 2 * exponent),), Fraction(1)))
    for prime, times in factors(abs(coefficient)).items():
        result = multiply(result, simplified(((Atom(str(prime)), times * exponent),), Fraction(1)))
    return ExactValue(result)


def _root_of_sum(base: ExactValue, exponent: Fraction) -> ExactValue:
    """Return the root with the sum's common rational factor in front: sqrt(4x + 4) becomes 2 sqrt(x + 1)."""
    numerators, denominators = zip(*(coefficient.as_integer_ratio() for coefficient in base.upper.values()), strict=True)
    common = Fraction(math.gcd(*numerators), math.lcm(*denominators))
    inner = base / number(common)
    root = _denested(inner) if exponent == Fraction(1, 2) else None
    if root is None:
        root = ExactValue(simplified(((Atom(f"root({inner})", "root", (inner,)), exponent),), Fraction(1)))
    return rational_power(number(common), exponent) * root


def _denested(radicand: ExactValue) -> ExactValue | None:
    """Return sqrt(a + b) as sqrt((a + s) / 2) ± sqrt((a - s) / 2), s = sqrt(a² - b²), if a, b² and s are rational."""
    whole = radicand.upper.get((), Fraction(0))
    rest = radicand - number(whole)
    square = (rest * rest).rational if rest.term else None
    if square is None or not 0 < square < whole**2 or whole < 0:
        return None
    root = rational_power(number(whole**2 - square), Fraction(1, 2)).rational
    if root is None:
        return None
    larger, smaller = (rational_power(number((whole + part) / 2), Fraction(1, 2)) for part in (root, -root))
    return larger + smaller if sign(rest) == 1 else larger - smaller


def _symbolic_power(base: tuple[Powers, Fraction], exponent: ExactValue, coefficient: Fraction) -> ExactValue:
    """Return base ** (coefficient * exponent) as powers of atoms such as 2^x and e^x."""
    powers, factor = base
    if factor < 0:
        raise CannotComputeError("a negative number to an unknown power")
    bases = [(atom(single), times) for single, times in powers]
    bases += [(number(prime), Fraction(times)) for prime, times in factors(factor).items()]
    atoms = [(Atom(f"({one})^({exponent})", "power", (one, exponent)), times * coefficient) for one, times in bases]
    return ExactValue(checked({tuple(sorted(atoms)): Fraction(1)}))
