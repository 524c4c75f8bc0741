"""Exact arithmetic on quotients of polynomials in symbols, π, e, i, roots of primes and functions that stay unevaluated.

Values are equal where the difference of their cross products is zero, term by term. Sums are sorted out, nothing is
factored or searched for, and everything that could grow has a cap. It reads no text.
"""

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias
from zlib import crc32

MAX_BITS = 20_000
"""The longest integer: 6,000 decimal digits."""
_MAX_BITS_IN_SUM = 600
_MAX_TERMS = 100
_MAX_PRODUCTS = 3_000
_MAX_WHOLE_POWER_OF_SUM = 30
_MAX_TRIAL_DIVISOR = 10_000
_MAX_NAME_CHARS = 4_000
_ROUNDING = 1e-9


class CannotComputeError(ValueError):
    """The value is beyond this arithmetic."""


class NoValueError(ValueError):
    """The value is undefined, or longer than any answer is."""


@dataclass(frozen=True, order=True)
class Atom:
    """What terms are made of; two atoms with the same name are the same."""

    name: str
    function: str = field(default="", compare=False)
    """Of which the atom is an unevaluated value, "" for constants and symbols."""
    arguments: "tuple[Value, ...]" = field(default=(), compare=False)

    @cached_property
    def prime(self) -> int:
        """The prime whose roots the atom's fractional powers are, or 0."""
        return int(self.name) if self.name.isdigit() else 0


Powers: TypeAlias = tuple[tuple[Atom, Fraction], ...]
"""A product of atoms, each once, sorted."""
Polynomial: TypeAlias = Mapping[Powers, Fraction]
"""Coefficients by product; never a zero."""

I, PI, E = Atom("i"), Atom(r"\pi"), Atom("e")
_ONE: Polynomial = {(): Fraction(1)}
_CONSTANTS = {"i": 1j, r"\pi": math.pi, "e": math.e, r"\infty": math.inf}


@dataclass(frozen=True)
class Value:
    """A quotient of two polynomials, the lower one never zero; not reduced, so compare with `same_value` only."""

    upper: Polynomial
    lower: Polynomial = field(default_factory=lambda: _ONE)

    def __add__(self, other: "Value") -> "Value":
        if self.lower == other.lower:
            return quotient(_sum(self.upper, other.upper), self.lower)
        upper = _sum(_product(self.upper, other.lower), _product(other.upper, self.lower))
        return quotient(upper, _product(self.lower, other.lower))

    def __neg__(self) -> "Value":
        return Value(_scaled(self.upper, Fraction(-1)), self.lower)

    def __sub__(self, other: "Value") -> "Value":
        return self + -other

    def __mul__(self, other: "Value") -> "Value":
        return quotient(_product(self.upper, other.upper), _product(self.lower, other.lower))

    def __truediv__(self, other: "Value") -> "Value":
        return quotient(_product(self.upper, other.lower), _product(self.lower, other.upper))

    def __str__(self) -> str:
        return _spelled(self.upper) if self.lower == _ONE else f"({_spelled(self.upper)})/({_spelled(self.lower)})"

    @property
    def rational(self) -> Fraction | None:
        """The value where it is a rational number, else None."""
        if not self.upper:
            return Fraction(0)
        is_rational = self.lower == _ONE and self.upper.keys() == {()}
        return self.upper[()] if is_rational else None

    @property
    def term(self) -> tuple[Powers, Fraction] | None:
        """The one term that the value is, else None."""
        return next(iter(self.upper.items())) if self.lower == _ONE and len(self.upper) == 1 else None

    @property
    def atoms(self) -> set[Atom]:
        """All atoms, those within functions included."""
        outer = {atom for polynomial in (self.upper, self.lower) for powers in polynomial for atom, _ in powers}
        return outer.union(*(argument.atoms for atom in outer for argument in atom.arguments))

    @property
    def symbols(self) -> set[str]:
        """The names that have no value of their own."""
        return {atom.name for atom in self.atoms if not (atom.prime or atom.function or atom.name in _CONSTANTS)}

    def approximate(self) -> complex:
        """Return the value in floating point, each symbol standing for a number of its own; ArithmeticError if there is none."""
        return _approximation(self.upper)[0] / _approximation(self.lower)[0]


def number(value: Fraction | int) -> Value:
    """Return a rational number as a Value."""
    return Value(_checked({(): Fraction(value)})) if value else Value({})


def atom(atom: Atom) -> Value:
    """Return an atom as a Value."""
    return Value({((atom, Fraction(1)),): Fraction(1)})


def symbol(name: str) -> Value:
    """Return a symbol as a Value."""
    return atom(Atom(name))


def unevaluated(function: str, *arguments: Value) -> Value:
    """Return the function's value at the arguments as an atom."""
    name = f"{function}({', '.join(map(str, arguments))})"
    if len(name) > _MAX_NAME_CHARS:
        raise NoValueError(function)
    return atom(Atom(name, function, arguments))


def quotient(upper: Polynomial, lower: Polynomial) -> Value:
    """Return the quotient of two polynomials; a single term below joins the ones above."""
    if not lower:
        raise NoValueError("division by zero")
    if len(lower) > 1:
        return Value(upper, lower)
    ((powers, coefficient),) = lower.items()
    if not powers:
        return Value(_scaled(upper, 1 / coefficient))
    inverse = tuple((atom, -exponent) for atom, exponent in powers)
    return Value(_product(upper, _settled(inverse, 1 / coefficient)))


def same_value(first: Value, second: Value) -> bool | None:
    """Tell whether the values are equal; None where functions stay unevaluated and their numbers do not differ."""
    try:
        left, right = _product(first.upper, second.lower), _product(second.upper, first.lower)
    except (CannotComputeError, NoValueError):
        return None
    if left == right:
        return True
    if not any(atom.function for polynomial in (left, right) for powers in polynomial for atom, _ in powers):
        # Products of symbols, transcendental constants, i and roots of distinct primes are linearly independent.
        return False
    try:
        (value, size), (other_value, other_size) = _approximation(left), _approximation(right)
    except (ArithmeticError, ValueError):
        return None
    return False if abs(value - other_value) > _ROUNDING * (size + other_size) else None


def sign(value: Value) -> int | None:
    """Return the sign of a real number, None where it has symbols, is not real or too near to zero to tell."""
    rational = value.rational
    if rational is not None:
        return (rational > 0) - (rational < 0)
    if value.symbols:
        return None
    try:
        approximation = value.approximate()
    except (ArithmeticError, ValueError):
        return None
    if not abs(approximation.real) > _ROUNDING or abs(approximation.imag) > _ROUNDING:
        return None
    return 1 if approximation.real > 0 else -1


def power(base: Value, exponent: Value) -> Value:
    """Return base ** exponent; symbols under a root are taken to be positive."""
    rational = exponent.rational
    if rational is not None:
        return rational_power(base, rational)
    if exponent.lower != _ONE or base.term is None or base.rational == 0:
        return unevaluated("power", base, exponent)
    result = number(1)
    for powers, coefficient in exponent.upper.items():
        if powers:
            result *= _symbolic_power(base.term, Value({powers: Fraction(1)}), coefficient)
        else:
            result *= rational_power(base, coefficient)
    return result


def rational_power(base: Value, exponent: Fraction) -> Value:
    """Return base ** exponent; odd roots of negative numbers are real."""
    if max(abs(exponent.numerator), exponent.denominator).bit_length() > 64:
        raise NoValueError("exponent")
    if not base.upper:
        if exponent <= 0:
            raise NoValueError("0 to no positive power")
        return base
    if base.term is not None:
        return _power_of_term(*base.term, exponent)
    if exponent.denominator == 1:
        return _whole_power(base, int(exponent))
    return (
        rational_power(Value(base.upper), exponent) / rational_power(Value(base.lower), exponent)
        if base.lower != _ONE
        else _root_of_sum(base, exponent)
    )


def factors(integer: int) -> dict[int, int]:
    """Return the exponents of the primes in a positive integer; CannotComputeError where small divisors do not suffice."""
    exponents: dict[int, int] = {}
    divisor = 2
    while divisor <= _MAX_TRIAL_DIVISOR and divisor * divisor <= integer:
        while integer % divisor == 0:
            integer //= divisor
            exponents[divisor] = exponents.get(divisor, 0) + 1
        divisor += 1 + divisor % 2
    multiplicity = 1
    while (root := math.isqrt(integer)) ** 2 == integer > 1:
        integer, multiplicity = root, multiplicity * 2
    if integer > _MAX_TRIAL_DIVISOR**2:
        raise CannotComputeError("an integer without small factors")
    if integer > 1:
        exponents[integer] = exponents.get(integer, 0) + multiplicity
    return exponents


def _sum(first: Polynomial, second: Polynomial) -> Polynomial:
    total = dict(first)
    for powers, coefficient in second.items():
        total[powers] = total.get(powers, Fraction(0)) + coefficient
    return _checked(total)


def _scaled(polynomial: Polynomial, factor: Fraction) -> Polynomial:
    return _checked({powers: coefficient * factor for powers, coefficient in polynomial.items()})


def _product(first: Polynomial, second: Polynomial) -> Polynomial:
    if first == _ONE or second == _ONE:
        return second if first == _ONE else first
    if len(first) * len(second) > _MAX_PRODUCTS:
        raise CannotComputeError("a product of long sums")
    total: dict[Powers, Fraction] = {}
    for powers, coefficient in first.items():
        for other_powers, other_coefficient in second.items():
            exponents = dict(powers)
            for atom, exponent in other_powers:
                exponents[atom] = exponents.get(atom, Fraction(0)) + exponent
            for settled, factor in _settled(tuple(exponents.items()), coefficient * other_coefficient).items():
                total[settled] = total.get(settled, Fraction(0)) + factor
    return _checked(total)


def _settled(powers: Powers, coefficient: Fraction) -> Polynomial:
    """Return the term with whole powers of primes, i² and squares of roots worked out."""
    left: dict[Atom, Fraction] = {}
    sums: list[tuple[Atom, int]] = []
    for atom, exponent in powers:
        if atom.prime:
            whole = math.floor(exponent)
            coefficient *= _rational_whole_power(Fraction(atom.prime), whole)
            exponent -= whole
        elif atom == I:
            if exponent.denominator != 1:
                raise CannotComputeError("a root of i")
            coefficient *= -1 if exponent % 4 in (2, 3) else 1
            exponent %= 2
        elif atom.function == "root" and exponent >= 1:
            sums.append((atom, math.floor(exponent)))
            exponent -= math.floor(exponent)
        if exponent:
            left[atom] = exponent
    result: Polynomial = {tuple(sorted(left.items())): coefficient}
    for atom, exponent in sums:
        result = _product(result, _whole_power(atom.arguments[0], exponent).upper)
    return result


def _checked(polynomial: dict[Powers, Fraction]) -> Polynomial:
    kept = {powers: coefficient for powers, coefficient in polynomial.items() if coefficient}
    if len(kept) > _MAX_TERMS:
        raise CannotComputeError("a long sum")
    max_bits = MAX_BITS if len(kept) == 1 else _MAX_BITS_IN_SUM
    for coefficient in kept.values():
        if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > max_bits:
            raise NoValueError("digits")
    return kept


def _rational_whole_power(base: Fraction, exponent: int) -> Fraction:
    if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) > MAX_BITS and abs(base) != 1:
        raise NoValueError("power")
    # The parity is all that counts for 1 and -1.
    return base**exponent if abs(base) != 1 else base ** (exponent % 2)


def _power_of_term(powers: Powers, coefficient: Fraction, exponent: Fraction) -> Value:
    raised = tuple((atom, power * exponent) for atom, power in powers)
    if exponent.denominator == 1:
        return Value(_settled(raised, _rational_whole_power(coefficient, int(exponent))))
    turned: Polynomial = _ONE
    if coefficient < 0:
        if exponent.denominator == 2:
            turned = _settled(((I, Fraction(exponent.numerator)),), Fraction(1))
        elif exponent.denominator % 2:
            turned = {(): Fraction(-1 if exponent.numerator % 2 else 1)}
        else:
            raise CannotComputeError("an even root of a negative number")
    roots = [(prime, times * exponent) for prime, times in factors(abs(coefficient.numerator)).items()]
    roots += [(prime, -times * exponent) for prime, times in factors(coefficient.denominator).items()]
    result = _product(_settled(raised, Fraction(1)), turned)
    for prime, times in roots:
        result = _product(result, _settled(((Atom(str(prime)), times),), Fraction(1)))
    return Value(result)


def _whole_power(base: Value, exponent: int) -> Value:
    if abs(exponent) > _MAX_WHOLE_POWER_OF_SUM:
        raise NoValueError("power of a sum")
    result = number(1)
    for _ in range(abs(exponent)):
        result *= base
    return result if exponent >= 0 else number(1) / result


def _root_of_sum(base: Value, exponent: Fraction) -> Value:
    """Return the root with the sum's common rational factor taken out: sqrt(4x + 4) is 2 sqrt(x + 1)."""
    coefficients = base.upper.values()
    common = Fraction(
        math.gcd(*(coefficient.numerator for coefficient in coefficients)),
        math.lcm(*(coefficient.denominator for coefficient in coefficients)),
    )
    inner = Value(_scaled(base.upper, 1 / common))
    root = _denested(inner) if exponent == Fraction(1, 2) else None
    if root is None:
        root = Value(_settled(((Atom(f"root({inner})", "root", (inner,)), exponent),), Fraction(1)))
    return rational_power(number(common), exponent) * root


def _denested(radicand: Value) -> Value | None:
    """Return sqrt(a + b) as sqrt((a + s) / 2) ± sqrt((a - s) / 2), s = sqrt(a² - b²), where a, b² and s are rational."""
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


def _symbolic_power(base: tuple[Powers, Fraction], exponent: Value, coefficient: Fraction) -> Value:
    """Return base ** (coefficient * exponent) as powers of atoms such as 2^x and e^x."""
    powers, factor = base
    if factor < 0:
        raise CannotComputeError("a negative number to an unknown power")
    bases = [(Value({((atom, Fraction(1)),): Fraction(1)}), times) for atom, times in powers]
    bases += [(number(prime), Fraction(times)) for prime, times in factors(factor.numerator).items()]
    bases += [(number(prime), Fraction(-times)) for prime, times in factors(factor.denominator).items()]
    result = number(1)
    for one, times in bases:
        name = f"({one})^({exponent})"
        result *= Value({((Atom(name, "power", (one, exponent)), times * coefficient),): Fraction(1)})
    return result


def _spelled(polynomial: Polynomial) -> str:
    terms = [
        f"{coefficient}{''.join(f'*{atom.name}^{exponent}' for atom, exponent in powers)}"
        for powers, coefficient in polynomial.items()
    ]
    return " + ".join(sorted(terms)) or "0"


def _approximation(polynomial: Polynomial) -> tuple[complex, float]:
    """Return the polynomial in floating point, and the sum of the sizes of its terms."""
    terms = [
        math.prod((_atom_approximation(atom) ** float(exponent) for atom, exponent in powers), start=complex(coefficient))
        for powers, coefficient in polynomial.items()
    ]
    return sum(terms), sum(map(abs, terms))


def _atom_approximation(atom: Atom) -> complex:
    if atom.prime:
        return complex(atom.prime)
    if atom.name in _CONSTANTS:
        return complex(_CONSTANTS[atom.name])
    if atom.function:
        return approximate_function(atom.function, [argument.approximate() for argument in atom.arguments])
    # Any number does for a symbol, if only it is always the same.
    return complex(0.5 + crc32(atom.name.encode()) % 10**6 / 10**6)


def approximate_function(function: str, arguments: list[complex]) -> complex:
    """Return a function's value in floating point; ArithmeticError or ValueError where it has none."""
    if function == "power":
        return arguments[0] ** arguments[1]
    (argument,) = arguments
    if function == "root":
        return argument
    if function in ("abs", "floor", "ceil"):
        return complex({"abs": abs, "floor": _floor, "ceil": _ceil}[function](argument))
    if function.startswith("arc"):
        return complex(getattr(cmath, f"a{function[3:]}")(argument))
    if function in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "log"):
        return complex(getattr(cmath, function)(argument))
    raise ValueError(f"no approximation of {function}")


def _floor(value: complex) -> int:
    return math.floor(value.real)


def _ceil(value: complex) -> int:
    return math.ceil(value.real)
