"""Sums of products: rational numbers times powers of symbols, π, e, i, roots of primes and unevaluated functions.

A polynomial is a mapping that is never modified. It has no zero coefficients, and its products are simplified. All sizes are
limited.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Protocol, TypeAlias

MAX_BITS = 14_000
"""The longest integer: about 4,200 decimal digits; Python refuses to print more than 4,300."""
_MAX_BITS_IN_SUM = 600
_MAX_TERMS = 60
_MAX_PRODUCTS = 1_000
_MAX_FACTORS = 10
_MAX_ATOMS = 30
_MAX_NAME_CHARS = 500
_MAX_TRIAL_DIVISOR = 10_000


class CannotComputeError(ValueError):
    """The value is beyond the reach of this arithmetic."""


class NoValueError(ValueError):
    """The value is undefined, or longer than any answer."""


@dataclass(frozen=True, order=True)
class Atom:
    """A factor of a term; two atoms with the same name are equal."""

    name: str
    function: str = field(default="", compare=False)
    """The function of which the atom is an unevaluated value; "" for constants and symbols."""
    arguments: "tuple[Argument, ...]" = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_NAME_CHARS:
            raise CannotComputeError("a function of a long formula")

    @cached_property
    def prime(self) -> int:
        """The prime that the atom stands for, or 0; its fractional powers are roots of this prime."""
        return int(self.name) if self.name.isdigit() else 0


Powers: TypeAlias = tuple[tuple[Atom, Fraction], ...]
"""A product of powers of different atoms, sorted by atom."""
Polynomial: TypeAlias = Mapping[Powers, Fraction]
"""Coefficients by product, none of them zero."""


class Argument(Protocol):
    """An argument of an unevaluated function: an `algebra.ExactValue`, which is a quotient of two polynomials."""

    @property
    def upper(self) -> Polynomial: ...
    @property
    def lower(self) -> Polynomial: ...
    @property
    def atoms(self) -> set[Atom]: ...
    @property
    def symbols(self) -> set[str]: ...
    def approximate(self) -> complex: ...


IMAGINARY, PI, E = Atom("i"), Atom(r"\pi"), Atom("e")
ONE: Polynomial = {(): Fraction(1)}


def factors(positive: Fraction) -> dict[int, int]:
    """Return a number's exponents by prime, negative ones for its denominator.

    Raises CannotComputeError if trial division does not suffice.
    """
    exponents = Counter[int]()
    for integer, multiplicity in ((positive.numerator, 1), (positive.denominator, -1)):
        divisor = 2
        while divisor <= _MAX_TRIAL_DIVISOR and divisor * divisor <= integer:
            while integer % divisor == 0:
                integer //= divisor
                exponents[divisor] += multiplicity
            divisor += 1 + divisor % 2
        while (root := math.isqrt(integer)) ** 2 == integer > 1:
            integer, multiplicity = root, multiplicity * 2
        if integer > _MAX_TRIAL_DIVISOR**2:
            raise CannotComputeError("an integer without small factors")
        if integer > 1:
            exponents[integer] += multiplicity
    return exponents


def add(first: Polynomial, second: Polynomial) -> Polynomial:
    """Return the sum."""
    total = defaultdict(Fraction, first)
    for powers, coefficient in second.items():
        total[powers] += coefficient
    return checked(total)


def multiply(first: Polynomial, second: Polynomial) -> Polynomial:
    """Return the product, with its terms simplified by `simplified`."""
    if first == ONE or second == ONE:
        return second if first == ONE else first
    if len(first) * len(second) > _MAX_PRODUCTS:
        raise CannotComputeError("a product of long sums")
    total = defaultdict[Powers, Fraction](Fraction)
    for powers, coefficient in first.items():
        for other_powers, other_coefficient in second.items():
            exponents = defaultdict(Fraction, powers)
            for atom, exponent in other_powers:
                exponents[atom] += exponent
            for product, factor in simplified(tuple(exponents.items()), coefficient * other_coefficient).items():
                total[product] += factor
    return checked(total)


def simplified(powers: Powers, coefficient: Fraction) -> Polynomial:
    """Return the term with whole powers of primes, i², sin² and squares of roots evaluated."""
    left: dict[Atom, Fraction] = {}
    sums: list[Polynomial] = []
    for atom, exponent in powers:
        if atom.prime:
            whole, exponent = divmod(exponent, 1)
            coefficient *= rational_whole_power(Fraction(atom.prime), whole)
        elif atom == IMAGINARY:
            if exponent.denominator != 1:
                raise CannotComputeError("a root of i")
            coefficient *= -1 if exponent % 4 in (2, 3) else 1
            exponent %= 2
        elif atom.function == "root" and exponent >= 1:
            times, exponent = divmod(exponent, 1)
            sums += [atom.arguments[0].upper] * min(times, _MAX_FACTORS + 1)
        elif atom.function == "sin" and exponent >= 2:
            times, exponent = divmod(exponent, 2)
            cosine = Atom(f"cos{atom.name.removeprefix('sin')}", "cos", atom.arguments)
            sums += [{(): Fraction(1), ((cosine, Fraction(2)),): Fraction(-1)}] * min(times, _MAX_FACTORS + 1)
        if exponent:
            left[atom] = exponent
    result: Polynomial = {tuple(sorted(left.items())): coefficient}
    if len(sums) > _MAX_FACTORS:
        raise CannotComputeError("a high power of a sum")
    for factor in sums:
        result = multiply(result, factor)
    return result


def checked(polynomial: Polynomial) -> Polynomial:
    """Return the polynomial without zeros; raises CannotComputeError or NoValueError if a size limit is exceeded."""
    kept = {powers: coefficient for powers, coefficient in polynomial.items() if coefficient}
    if len(kept) > _MAX_TERMS or any(len(powers) > _MAX_ATOMS for powers in kept):
        raise CannotComputeError("a long sum")
    max_bits = MAX_BITS if len(kept) == 1 else _MAX_BITS_IN_SUM
    if any(max(one.numerator.bit_length(), one.denominator.bit_length()) > max_bits for one in kept.values()):
        raise NoValueError("digits")
    return kept


def rational_whole_power(base: Fraction, exponent: int) -> Fraction:
    """Return base ** exponent; its size is checked before it is computed."""
    if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) > MAX_BITS and abs(base) != 1:
        raise NoValueError("power")
    # For 1 and -1 only the parity of the exponent counts.
    return base**exponent if abs(base) != 1 else base ** (exponent % 2)


def to_text(polynomial: Polynomial) -> str:
    """Return the polynomial as text; equal polynomials have the same text."""
    terms = [
        f"{coefficient}{''.join(f'*{atom.name}^{exponent}' for atom, exponent in powers)}"
        for powers, coefficient in polynomial.items()
    ]
    return " + ".join(sorted(terms)) or "0"
