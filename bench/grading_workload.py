"""Generates the responses that bench.grading grades, with known verdicts, in the style of GSM8K and MATH.

data/answer_forms.jsonl has for each kind of answer a gold answer and right and wrong forms of it, with names such as <n> in
place of numbers. This module fills in numbers and adds reasoning from GSM8K and tags.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathsft.prompts.verdicts import Completion
from mathsft.records import Category

DATA = Path(__file__).parent / "data"
WORD_PROBLEM_SHARE = 0.5
FORMAT_FAILURE_SHARE = 0.2
WRONG_SHARE = 0.55

HOSTILE_EVERY = 500
HOSTILE = (
    "99999999!",
    "10^{10^{10}}",
    r"\{1, 9^{9^{9}}\}",
    "9^{9^{9^{9}}}",
    r"\binom{99999999}{49999999}",
    "(1, 99999999!]",
    r"\prod_{n=1}^{100000000} n",
    "(x+y+z)^{5000}=1",
    r"\sum_{k=1}^{10^{12}} k^{k}",
    "[" * 300 + "]" * 300,
)

BAD_FORMATS = (
    ("{thought}", "stop"),
    ("{thought}", "length"),
    ("{thought} </think> The answer is {answer}.", "stop"),
    ("{thought} </think> <answer> {answer}", "length"),
    ("{thought} </think> <answer> {answer}", "stop"),
    ("{thought} <answer> {answer} </answer> </think>", "stop"),
    ("{thought} </think> Thus <answer> {answer} </answer>", "stop"),
)
GOOD_FORMATS = (
    ("{thought} </think> <answer> {answer} </answer>", "stop"),
    ("{thought} </think> <answer>{answer}</answer>", "stop"),
    ("{thought}\n</think>\n<answer>{answer}</answer>", "stop"),
    ("{thought} </think> <answer> {answer} </answer>\nUser: And now", "length"),
)

PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_NAME = re.compile("<([a-z]+)>")


@dataclass(frozen=True)
class Labelled:
    """A completion and its correct verdict."""

    kind: str
    completion: Completion
    category: Category


def make_responses(count: int, seed: int) -> list[Labelled]:
    """Return `count` responses, each HOSTILE_EVERYth with a hostile answer; the seed determines them."""
    chance = random.Random(seed)
    forms = _rows("answer_forms.jsonl")
    word_problems = [form for form in forms if form["kind"] == "word problem"]
    formulas = [form for form in forms if form["kind"] != "word problem"]
    thoughts = [row["answer"].partition("####")[0].strip() for row in _rows("gsm8k_rows.jsonl")]
    responses = []
    for place in range(count):
        form = chance.choice(word_problems if chance.random() < WORD_PROBLEM_SHARE else formulas)
        numbers = _numbers(chance)
        category = _category(chance)
        answer = _fill(chance.choice(form["right" if category == "correct" else "wrong"]), numbers)
        shape, finish_reason = chance.choice(BAD_FORMATS if category == "format_failure" else GOOD_FORMATS)
        if place % HOSTILE_EVERY == HOSTILE_EVERY - 1:
            category, (shape, finish_reason) = "wrong_answer", GOOD_FORMATS[0]
            answer = HOSTILE[place // HOSTILE_EVERY % len(HOSTILE)]
        text = f" {shape.format(thought=chance.choice(thoughts), answer=answer)}"
        completion = Completion(text, finish_reason, _fill(form["gold"], numbers))
        responses.append(Labelled(form["kind"], completion, category))
    return responses


def _category(chance: random.Random) -> Category:
    drawn = chance.random()
    if drawn < FORMAT_FAILURE_SHARE:
        return "format_failure"
    return "wrong_answer" if drawn < FORMAT_FAILURE_SHARE + WRONG_SHARE else "correct"


def _numbers(chance: random.Random) -> dict[str, str]:
    """Return the numbers by their names in the forms; a < b are digits, p and q different primes, and m is n + 1."""
    a, b = sorted(chance.sample(range(2, 10), 2))
    p, q = chance.sample(PRIMES, 2)
    n, long = chance.randrange(12, 1000), chance.randrange(1000, 100_000)
    numbers = {"a": a, "b": b, "p": p, "q": q, "n": n, "m": n + 1, "long": long, "before": n - 1}
    numbers |= {
        "ta": 2 * a,
        "tp": 2 * p,
        "tn": 2 * n,
        "ab": a * b,
        "ap": a * p,
        "aap": a * a * p,
        "bma": b - a,
        "psq": p + q,
    }
    numbers |= {
        "mixed": p * b + a,
        "choose": n * (n - 1) // 2,
        "octal": chance.randrange(1, 8) * 10 + chance.randrange(1, 8),
    }
    texts = {"grouped": f"{long:,}", "eighth": f"{n / 8:.3f}", "npi": f"{n * 3.14159:.2f}"}
    return {name: str(number) for name, number in numbers.items()} | texts


def _fill(form: str, numbers: dict[str, str]) -> str:
    return _NAME.sub(lambda name: numbers[name[1]], form)


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
