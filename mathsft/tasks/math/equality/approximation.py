"""Computes a polynomial in floating point, to show that two values differ; it cannot show that they are equal."""

import cmath
import math
from collections.abc import Callable
from zlib import crc32

from mathsft.tasks.math.equality.polynomials import Atom, Polynomial

CONSTANTS = {"i": 1j, r"\pi": math.pi, "e": math.e, r"\infty": math.inf}
_FUNCTIONS: dict[str, Callable[..., complex]] = {
    "power": pow,
    "root": complex,
    "abs": abs,
    "floor": lambda argument: math.floor(argument.real),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "log": cmath.log,
}


def approximation(polynomial: Polynomial) -> tuple[complex, float]:
    """Return the polynomial's value in floating point, and the sum of the absolute values of its terms."""
    terms = [
        math.prod((_atom_approximation(atom) ** float(exponent) for atom, exponent in powers), start=complex(coefficient))
        for powers, coefficient in polynomial.items()
    ]
    return sum(terms), sum(map(abs, terms))


def _atom_approximation(atom: Atom) -> complex:
    """Return an atom's value in floating point; raises ArithmeticError or ValueError if it has none."""
    if atom.prime:
        return complex(atom.prime)
    if atom.name in CONSTANTS:
        return complex(CONSTANTS[atom.name])
    if atom.function:
        if atom.function not in _FUNCTIONS:
            raise ValueError(f"no approximation of {atom.function}")
        return complex(_FUNCTIONS[atom.function](*(argument.approximate() for argument in atom.arguments)))
    # Any number will do for a symbol, provided that it is always the same.
    return complex(0.5 + crc32(atom.name.encode()) % 10**6 / 10**6)
