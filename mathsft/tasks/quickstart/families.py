"""Draws problems with exact solutions from the quickstart's nine families, in five types and five levels.

The wording is terse and every solution works in small steps, because a model of 0.9 M parameters has to learn them from a
few thousand examples. The shipped base model and all measured figures belong to exactly these texts: do not change a word.
"""

import random
from collections.abc import Callable
from fractions import Fraction
from math import gcd
from typing import TypeAlias

from mathsft.records import Problem
from mathsft.tasks.rows import problem_id

LEVELS = (1, 2, 3, 4, 5)

# ---- The steps of solutions. The arithmetic facts of the base model's pre-training have the same wording.


def plus(a: int, b: int) -> str:
    """Return the solution step that adds b to a."""
    return f"${a}+{b}={a + b}$."


def minus(a: int, b: int) -> str:
    """Return the solution step that takes b from a."""
    return f"${a}-{b}={a - b}$."


def times(a: int, b: int) -> str:
    """Return the solution step that multiplies a by b at once."""
    return f"${a}\\times {b}={a * b}$."


def divided_by(a: int, b: int) -> str:
    """Return the solution step that divides a by b, which must divide it."""
    return f"${a}\\div {b}={a // b}$."


def reduced(numerator: int, denominator: int) -> str:
    """Return the solution step that reduces a fraction to lowest terms, or only the fraction if it is in lowest terms."""
    fraction, lowest = _latex_fraction(numerator, denominator), _lowest_terms(numerator, denominator)
    return f"${fraction}$." if fraction == lowest else f"${fraction}={lowest}$."


def _latex_fraction(numerator: int, denominator: int) -> str:
    """Return the LaTeX of a fraction without reducing it."""
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _lowest_terms(numerator: int, denominator: int) -> str:
    """Return the LaTeX of a positive fraction in lowest terms, or of the whole number that it equals."""
    value = Fraction(numerator, denominator)
    return str(value.numerator) if value.denominator == 1 else _latex_fraction(value.numerator, value.denominator)


def _long_multiplication(a: int, b: int) -> str:
    """Return the solution steps that multiply a by the one-digit b, digit by digit of a."""
    steps: list[str] = []
    total = 0
    parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(a))) if digit != "0"]
    for part in reversed(parts):
        steps.append(times(part, b))
        if total:
            steps.append(plus(total, part * b))
        total += part * b
    return " ".join(steps)


# ---- The families.


Family: TypeAlias = Callable[[random.Random, int], Problem]
"""Draws a problem for a level, 1 to 5; the result does not name the level."""


def _problem(subject: str, text: str, solution: str, answer: str) -> Problem:
    return Problem(problem_id(text), text, solution, answer, subject=subject)


def sums(rng: random.Random, level: int) -> Problem:
    """Draw a chain of two to four additions and subtractions whose running value stays positive."""
    num_terms, highest = ((2, 30), (2, 99), (3, 99), (4, 99), (4, 400))[level - 1]
    value = rng.randint(highest // 3, highest)
    expression, steps = str(value), []
    for _ in range(num_terms - 1):
        term = rng.randint(highest // 10 + 2, highest)
        sign, step = (-1, minus) if term < value and rng.random() < 0.5 else (1, plus)
        expression += f"{sign * term:+}"
        steps.append(step(value, term))
        value += sign * term
    question = rng.choice((f"Compute ${expression}$.", f"What is ${expression}$?", f"Evaluate ${expression}$."))
    return _problem("Prealgebra", question, " ".join(steps), str(value))


def products(rng: random.Random, level: int) -> Problem:
    """Draw the product of two numbers."""
    range_a = ((2, 12), (13, 49), (21, 99), (101, 499), (12, 49))[level - 1]
    range_b = ((3, 9), (3, 6), (3, 9), (3, 9), (12, 29))[level - 1]
    a, b = rng.randint(*range_a), rng.randint(*range_b)
    if level == 1:
        solution = times(a, b)
    elif level < 5:
        solution = _long_multiplication(a, b)
    else:
        ones = b % 10
        tens = b - ones
        solution = f"{times(a, tens)} {times(a, ones)} {plus(a * tens, a * ones)}" if ones else times(a, tens)
    expression = f"{a}\\times {b}"
    question = rng.choice((f"Compute ${expression}$.", f"What is ${expression}$?", f"Find the product ${expression}$."))
    return _problem("Prealgebra", question, solution, str(a * b))


def linear_equations(rng: random.Random, level: int) -> Problem:
    """Draw a linear equation in x with a positive whole solution."""
    x = rng.randint(2, 12) if level < 4 else rng.randint(6, 25)
    if level == 1:
        b = rng.randint(3, 40)
        equation, solution = f"x+{b}={x + b}", f"$x={x + b}-{b}={x}$."
    elif level == 2:
        a = rng.randint(2, 9)
        equation, solution = f"{a}x={a * x}", f"$x={a * x}\\div {a}={x}$."
    elif level < 5:
        a = rng.randint(2, 9)
        b = rng.randint(3, 30) if level == 3 else rng.randint(20, 90)
        c = a * x + b
        equation = f"{a}x+{b}={c}"
        solution = f"${a}x={c}-{b}={a * x}$. $x={a * x}\\div {a}={x}$."
    else:
        b, d, k = rng.randint(20, 90), rng.randint(2, 9), rng.randint(2, 6)
        a, e = d + k, b + k * x
        equation = f"{a}x+{b}={d}x+{e}"
        solution = f"${a}x-{d}x={k}x$. ${k}x={e}-{b}={k * x}$. $x={k * x}\\div {k}={x}$."
    return _problem("Algebra", f"Solve ${equation}$ for $x$.", solution, str(x))


def polynomials(rng: random.Random, level: int) -> Problem:
    """Draw a polynomial of degree one or two and the x at which to evaluate it."""
    x = rng.randint(2, 9) if level < 5 else rng.randint(3, 12)
    a, b = rng.randint(2, 9), rng.randint(3, 30)
    if level == 1:
        polynomial, value = f"x+{b}", x + b
        solution = plus(x, b)
    elif level == 2:
        polynomial, value = f"{a}x+{b}", a * x + b
        solution = f"{times(a, x)} {plus(a * x, b)}"
    elif level == 3:
        polynomial, value = f"x^2+{b}", x * x + b
        solution = f"{times(x, x)} {plus(x * x, b)}"
    elif level == 4:
        polynomial, value = f"{a}x^2+{b}", a * x * x + b
        solution = f"{times(x, x)} {times(a, x * x)} {plus(a * x * x, b)}"
    else:
        c = rng.randint(3, 60)
        polynomial, value = f"x^2+{a}x+{c}", x * x + a * x + c
        solution = f"{times(x, x)} {times(a, x)} {plus(x * x, a * x)} {plus(x * x + a * x, c)}"
    question = rng.choice((f"If $x={x}$, what is ${polynomial}$?", f"Find ${polynomial}$ when $x={x}$."))
    return _problem("Algebra", question, solution, str(value))


def divisibility(rng: random.Random, level: int) -> Problem:
    """Draw a remainder (levels 1 to 4) or a greatest common divisor (level 5)."""
    if level == 5:
        return _greatest_common_divisor(rng)
    modulus = rng.randint(3, 9)
    if level == 4:
        a, b = rng.randint(11, 60), rng.randint(11, 60)
        number, dividend, first_step = a + b, f"{a}+{b}", f"{plus(a, b)} "
    else:
        number = rng.randint(*((8, 40), (30, 99), (60, 250))[level - 1])
        dividend, first_step = str(number), ""
    quotient, remainder = divmod(number, modulus)
    question = f"Find the remainder when ${dividend}$ is divided by ${modulus}$."
    solution = f"{first_step}{times(modulus, quotient)} {minus(number, modulus * quotient)}"
    return _problem("Number Theory", question, solution, str(remainder))


def _greatest_common_divisor(rng: random.Random) -> Problem:
    factor = rng.randint(2, 12)
    b, a = sorted((factor * rng.randint(4, 14), factor * rng.randint(2, 9)))
    if a == b:
        a += factor
    question = f"What is the greatest common divisor of ${a}$ and ${b}$?"
    steps = []
    while b:
        quotient, remainder = divmod(a, b)
        steps.append(f"${a}-{b}\\times {quotient}={remainder}$.")
        a, b = b, remainder
    return _problem("Number Theory", question, " ".join(steps), str(a))


def fractions(rng: random.Random, level: int) -> Problem:
    """Draw a sum of fractions, a fraction to simplify, or a fraction of a number."""
    if level == 1:
        denominator = rng.randint(5, 19)
        a = rng.randint(1, denominator - 2)
        b = rng.randint(1, denominator - 1 - a)
        question = f"Compute ${_latex_fraction(a, denominator)}+{_latex_fraction(b, denominator)}$."
        solution = f"{plus(a, b)} {reduced(a + b, denominator)}"
        return _problem("Prealgebra", question, solution, _lowest_terms(a + b, denominator))
    if level == 2:
        factor, a, b = rng.randint(2, 9), rng.randint(1, 9), rng.randint(2, 11)
        if a == b:
            b += 1
        a, b = a * factor, b * factor
        question = f"Simplify ${_latex_fraction(a, b)}$."
        return _problem("Number Theory", question, f"$\\gcd={gcd(a, b)}$. {reduced(a, b)}", _lowest_terms(a, b))
    if level == 3:
        a, b, share = rng.randint(1, 9), rng.randint(2, 9), rng.randint(2, 9)
        a, number = min(a, b - 1), b * share
        question = f"What is ${_latex_fraction(a, b)}$ of ${number}$?"
        return _problem("Prealgebra", question, f"{divided_by(number, b)} {times(share, a)}", str(share * a))
    b, d = rng.sample(range(2, 8 if level == 4 else 12), 2)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    question = f"Compute ${_latex_fraction(a, b)}+{_latex_fraction(c, d)}$."
    expanded = f"${_latex_fraction(a * d, b * d)}+{_latex_fraction(c * b, b * d)}$."
    total = a * d + c * b
    solution = f"{expanded} {plus(a * d, c * b)} {reduced(total, b * d)}"
    return _problem("Prealgebra", question, solution, _lowest_terms(total, b * d))


def chances(rng: random.Random, level: int) -> Problem:
    """Draw the probability of a ball's colour (levels 1 to 4) or a number of ways to choose two people (level 5)."""
    subject = "Counting & Probability"
    if level == 5:
        n = rng.randint(5, 30)
        question = f"In how many ways can ${n}$ people choose a chair and a clerk?"
        return _problem(subject, question, f"{minus(n, 1)} {times(n, n - 1)}", str(n * (n - 1)))
    first, second, third = rng.sample(("red", "blue", "green"), 3)
    highest = (6, 12, 12, 20)[level - 1]
    a, b, c = rng.randint(2, highest), rng.randint(2, highest), rng.randint(2, highest)
    if level < 3:
        bag, event = f"${a}$ {first} and ${b}$ {second} balls", first
        num_good, num_balls, counting = a, a + b, plus(a, b)
    else:
        bag, num_balls = f"${a}$ {first}, ${b}$ {second} and ${c}$ {third} balls", a + b + c
        if level == 3:
            event, num_good, counting = first, a, f"{plus(a, b)} {plus(a + b, c)}"
        else:
            event, num_good, counting = f"not {first}", b + c, f"{plus(b, c)} {plus(a, b + c)}"
    question = f"A bag has {bag}. What is the probability that a random ball is {event}?"
    return _problem(subject, question, f"{counting} {reduced(num_good, num_balls)}", _lowest_terms(num_good, num_balls))


def shapes(rng: random.Random, level: int) -> Problem:
    """Draw the area or the perimeter of a rectangle, or the third angle of a triangle."""
    if level == 5:
        a, b = rng.randint(20, 110), rng.randint(15, 60)
        question = f"Two angles of a triangle are ${a}$ and ${b}$ degrees. Find the third angle."
        return _problem("Geometry", question, f"{plus(a, b)} {minus(180, a + b)}", str(180 - a - b))
    highest = (9, 20, 12, 30)[level - 1]
    a = rng.randint(11, 40) if level == 3 else rng.randint(2, highest)
    b = rng.randint(2, highest)
    if level in (1, 3):
        question = f"What is the area of a rectangle with sides ${a}$ and ${b}$?"
        solution = _long_multiplication(a, b) if a > 12 and b < 10 else times(a, b)
        return _problem("Geometry", question, solution, str(a * b))
    question = f"What is the perimeter of a rectangle with sides ${a}$ and ${b}$?"
    return _problem("Geometry", question, f"{plus(a, b)} {times(2, a + b)}", str(2 * (a + b)))


def stories(rng: random.Random, level: int) -> Problem:
    """Draw a word problem about a person who has things, buys more and gives some away."""
    name = rng.choice(("Tom", "Ana", "Sam", "Mia", "Leo", "Zoe"))
    things = rng.choice(("pens", "cards", "books", "coins", "shells", "apples"))
    highest = (20, 60, 40, 60, 90)[level - 1]
    owned = rng.randint(highest // 4, highest)
    in_all, left = f"How many {things} in all?", f"How many {things} are left?"
    if level < 3:
        moved = rng.randint(2, highest)
        if moved < owned and rng.random() < 0.5:
            story = f"{name} has ${owned}$ {things} and gives away ${moved}$. {left}"
            return _problem("Prealgebra", story, minus(owned, moved), str(owned - moved))
        story = f"{name} has ${owned}$ {things} and buys ${moved}$ more. {in_all}"
        return _problem("Prealgebra", story, plus(owned, moved), str(owned + moved))
    boxes, size = rng.randint(2, 9), rng.randint(2, 9)
    bought = boxes * size
    total = owned + bought
    if level == 3:
        story = f"{name} has ${owned}$ {things} and buys ${boxes}$ boxes of ${size}$ {things}. {in_all}"
        return _problem("Prealgebra", story, f"{times(boxes, size)} {plus(owned, bought)}", str(total))
    if level == 4:
        given = rng.randint(2, total - 1)
        story = f"{name} has ${owned}$ {things}, buys ${boxes}$ boxes of ${size}$ {things} and gives away ${given}$. {left}"
        solution = f"{times(boxes, size)} {plus(owned, bought)} {minus(total, given)}"
        return _problem("Prealgebra", story, solution, str(total - given))
    more_boxes, other_size = rng.randint(2, 9), rng.randint(2, 9)
    rest = more_boxes * other_size
    story = (
        f"{name} buys ${boxes}$ boxes of ${size}$ {things} and ${more_boxes}$ boxes of ${other_size}$ {things}. "
        f"{name} had ${owned}$ {things}. {in_all}"
    )
    solution = f"{times(boxes, size)} {times(more_boxes, other_size)} {plus(bought, rest)} {plus(owned, bought + rest)}"
    return _problem("Prealgebra", story, solution, str(total + rest))


FAMILIES: tuple[Family, ...] = (
    sums,
    products,
    linear_equations,
    polynomials,
    divisibility,
    fractions,
    chances,
    shapes,
    stories,
)
