"""Computes a polynomial in floating point, to show that two values differ; it cannot show that they are equal."""

import cmath
import math
from zlib import crc32

from mathsft.answers.polynomials import Atom, Polynomial

CONSTANTS = {"i": 1j, r"\pi": math.pi, "e": math.e, r"\infty": math.inf}


def approximation(polynomial: Polynomial) -> tuple[complex, float]:
    """Return the polynomial's value in floating point, and the sum of the absolute values of its terms."""
    terms = [
        math.prod((_atom_approximation(atom) ** float(exponent) for atom, exponent in powers), start=complex(coefficient))
        for powers, coefficient in polynomial.items()
    ]
    return sum(terms), sum(map(abs, terms))


def _atom_approximation(atom: Atom) -> complex:
    if atom.prime:
        return complex(atom.prime)
    if atom.name in CONSTANTS:
        return complex(CONSTANTS[atom.name])
    if atom.function:
        return _approximate_function(atom.function, [argument.approximate() for argument in atom.arguments])
    # Any number will do for a symbol, provided that it is always the same.
    return complex(0.5 + crc32(atom.name.encode()) % 10**6 / 10**6)


def _approximate_function(function: str, arguments: list[complex]) -> complex:
    """Return a function's value in floating point; raises ArithmeticError or ValueError if it has none."""
    if function == "power":
        return arguments[0] ** arguments[1]
    (argument,) = arguments
    match function:
        case "root":
            return argument
        case "abs":
            return complex(abs(argument))
        case "floor":
            return complex(math.floor(argument.real))
        case "arcsin" | "arccos" | "arctan":
            return complex(getattr(cmath, f"a{function[3:]}")(argument))
        case "sin" | "cos" | "log":
            return complex(getattr(cmath, function)(argument))
    raise ValueError(f"no approximation of {function}")
