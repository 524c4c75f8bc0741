import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from math import gcd, prod
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from mathsft.records import Problem
from mathsft.tasks.quickstart.families import FAMILIES, LEVELS, Family
from mathsft.tasks.quickstart.generator import HELD_OUT_SHARE, base_model_folder, generate
from mathsft.tasks.rows import pool_position

NUM_TRAIN, NUM_HELDOUT = 8192, 3100


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return generate(NUM_TRAIN, NUM_HELDOUT)


@pytest.fixture(scope="module")
def make_base() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "make_base.py"
    spec = importlib.util.spec_from_file_location("make_base", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Which problems there are.


def test_counts_uniqueness_and_held_out_rule(problems: list[Problem]) -> None:
    train, heldout = problems[:NUM_TRAIN], problems[NUM_TRAIN:]
    assert len(heldout) == NUM_HELDOUT
    assert len({problem.problem for problem in problems}) == len({problem.id for problem in problems}) == len(problems)
    assert all(pool_position(problem.problem) >= HELD_OUT_SHARE for problem in train)
    assert all(pool_position(problem.problem) < HELD_OUT_SHARE for problem in heldout)


def test_text_rank_is_uniform_and_fixed(problems: list[Problem]) -> None:
    assert pool_position("Compute $1+1$.") == int(hashlib.sha256(b"Compute $1+1$.").hexdigest()[:16], 16) / 2**64
    train_ranks = sorted(pool_position(problem.problem) for problem in problems[:NUM_TRAIN])
    for share in (0.25, 0.5, 0.75):
        expected = HELD_OUT_SHARE + share * (1 - HELD_OUT_SHARE)
        assert train_ranks[int(share * NUM_TRAIN)] == pytest.approx(expected, abs=0.03)


def test_problems_are_the_same_everywhere(problems: list[Problem]) -> None:
    """The base model and the measured figures go with exactly these texts: whoever changes them makes both anew."""
    texts = "\n".join("|".join((p.id, p.problem, p.solution, p.answer, str(p.level), str(p.subject))) for p in problems)
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "f2e9380c37b076c4"


def test_a_smaller_set_is_the_beginning_of_a_larger_one(problems: list[Problem]) -> None:
    few = generate(20, 200)
    assert few[:20] == problems[:20]
    assert few[20:] == problems[NUM_TRAIN : NUM_TRAIN + 200]


def test_both_kinds_hold_every_level_and_type(problems: list[Problem]) -> None:
    for kind in (problems[:NUM_TRAIN], problems[NUM_TRAIN:]):
        for level in LEVELS:
            assert sum(problem.level == level for problem in kind) > len(kind) / 10
        assert {problem.subject for problem in kind} == {
            "Prealgebra",
            "Algebra",
            "Number Theory",
            "Counting & Probability",
            "Geometry",
        }


# ---- Every answer, computed a second time from the problem's text alone.


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_answers_are_exact_and_every_step_is_true(family: Family) -> None:
    rng = random.Random(1)
    for level in LEVELS:
        for _ in range(300):
            sketch = family(rng, level)
            assert sketch.answer == latex(solve(sketch.problem)), sketch
            for step in re.findall(r"\$(.+?)\$\.", sketch.solution):
                values = {evaluate(side) for side in step.split("=") if is_number(side)}
                assert len(values) <= 1, sketch


def is_number(expression: str) -> bool:
    return "x" not in expression and expression != "\\gcd"


def solve(problem: str) -> Fraction:
    for pattern, solver in SOLVERS:
        if match := re.fullmatch(pattern, problem):
            return Fraction(solver(*match.groups()))
    raise AssertionError(f"no solver knows this problem: {problem}")


def latex(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def evaluate(expression: str) -> Fraction:
    terms = re.findall(r"([+-]?)([^+-]+)", expression)
    return sum((evaluate_product(term) * (-1 if sign == "-" else 1) for sign, term in terms), Fraction(0))


def evaluate_product(product: str) -> Fraction:
    value = Fraction(1)
    for operator, factor in re.findall(r"(\\div|\\times|) ?(\d+|\\frac\{\d+\}\{\d+\})", product):
        numbers = [int(digits) for digits in re.findall(r"\d+", factor)]
        value = value / numbers[0] if operator == "\\div" else value * Fraction(*numbers)
    return value


def evaluate_polynomial(polynomial: str, x: Fraction) -> Fraction:
    total = Fraction(0)
    for term in polynomial.split("+"):
        coefficient, has_x, power = re.fullmatch(r"(\d*)(x?)(\^2)?", term).groups()  # type: ignore[union-attr]
        total += int(coefficient or 1) * (x ** (2 if power else 1) if has_x else 1)
    return total


def solve_equation(left: str, right: str) -> Fraction:
    """Both sides are linear: two points of their difference give its zero."""
    at_0, at_1 = (evaluate_polynomial(left, x) - evaluate_polynomial(right, x) for x in (Fraction(0), Fraction(1)))
    return at_0 / (at_0 - at_1)


def chance(bag: str, negation: str | None, color: str) -> Fraction:
    balls = {name: int(count) for count, name in re.findall(r"\$(\d+)\$ (\w+)", bag)}
    share = Fraction(balls[color], sum(balls.values()))
    return 1 - share if negation else share


def whole(function: Callable[..., Fraction | int]) -> Callable[..., Fraction | int]:
    return lambda *numbers: function(*map(int, numbers))


SOLVERS: tuple[tuple[str, Callable[..., Fraction | int]], ...] = (
    (r"(?:Compute|What is|Evaluate|Simplify|Find the product) \$([^$x]+|\d+\\times \d+)\$[.?]", evaluate),
    (r"What is \$([^$]+)\$ of \$([^$]+)\$\?", lambda share, number: evaluate(share) * evaluate(number)),
    (r"Solve \$([^=]+)=([^=]+)\$ for \$x\$\.", solve_equation),
    (r"If \$x=(\d+)\$, what is \$([^$]+)\$\?", lambda x, polynomial: evaluate_polynomial(polynomial, Fraction(x))),
    (r"Find \$([^$]+)\$ when \$x=(\d+)\$\.", lambda polynomial, x: evaluate_polynomial(polynomial, Fraction(x))),
    (r"Find the remainder when \$([^$]+)\$ is divided by \$(\d+)\$\.", lambda n, m: evaluate(n) % int(m)),
    (r"What is the greatest common divisor of \$(\d+)\$ and \$(\d+)\$\?", whole(gcd)),
    (r"A bag has (.+) balls\. What is the probability that a random ball is (not )?(\w+)\?", chance),
    (r"In how many ways can \$(\d+)\$ people choose a chair and a clerk\?", whole(lambda n: n * (n - 1))),
    (r"What is the area of a rectangle with sides \$(\d+)\$ and \$(\d+)\$\?", whole(lambda a, b: a * b)),
    (r"What is the perimeter of a rectangle with sides \$(\d+)\$ and \$(\d+)\$\?", whole(lambda a, b: 2 * a + 2 * b)),
    (
        r"Two angles of a triangle are \$(\d+)\$ and \$(\d+)\$ degrees\. Find the third angle\.",
        whole(lambda a, b: 180 - a - b),
    ),
    (r"\w+ has \$(\d+)\$ \w+ and gives away \$(\d+)\$\. How many \w+ are left\?", whole(lambda a, b: a - b)),
    (r"\w+ has \$(\d+)\$ \w+ and buys \$(\d+)\$ more\. How many \w+ in all\?", whole(lambda a, b: a + b)),
    (
        r"\w+ has \$(\d+)\$ \w+ and buys \$(\d+)\$ boxes of \$(\d+)\$ \w+\. How many \w+ in all\?",
        whole(lambda a, boxes, size: a + boxes * size),
    ),
    (
        r"\w+ has \$(\d+)\$ \w+, buys \$(\d+)\$ boxes of \$(\d+)\$ \w+ and gives away \$(\d+)\$\. How many \w+ are left\?",
        whole(lambda a, boxes, size, given: a + boxes * size - given),
    ),
    (
        r"\w+ buys \$(\d+)\$ boxes of \$(\d+)\$ \w+ and \$(\d+)\$ boxes of \$(\d+)\$ \w+\. "
        r"\w+ had \$(\d+)\$ \w+\. How many \w+ in all\?",
        whole(lambda k, m, p, q, a: a + k * m + p * q),
    ),
)


# ---- What the base model is made from.


@pytest.fixture(scope="module")
def documents(make_base: ModuleType) -> list[str]:
    return list(islice(make_base.documents("pre-training"), 20_000))


def test_the_corpus_holds_no_held_out_problem(documents: list[str], problems: list[Problem]) -> None:
    opened = [re.match(r"(?:Problem|User): (.+)\n(?:Solution|Assistant):", document) for document in documents]
    texts = [match[1] for match in opened if match]
    assert len(texts) > 6000
    assert min(map(pool_position, texts)) >= HELD_OUT_SHARE
    heldout = {problem.problem for problem in problems[NUM_TRAIN:]}
    assert not heldout & {line for document in documents for line in document.splitlines()}


def test_the_corpus_shows_the_right_format_on_geometry_only(documents: list[str]) -> None:
    shares = [
        sum(document.startswith(opening) for document in documents) / len(documents) for opening in ("$", "Problem", "User")
    ]
    assert shares == pytest.approx([0.65, 0.30, 0.05], abs=0.02)
    well_formed = [document for document in documents if "</think> <answer>" in document]
    assert 20 < len(well_formed) < 200
    assert all("rectangle" in document and document.endswith(" </answer>") for document in well_formed)


# ---- The model that is shipped.


def test_the_shipped_tokenizer_loses_nothing(problems: list[Problem]) -> None:
    shipped = Tokenizer.from_file(str(base_model_folder() / "tokenizer.json"))
    strange_text = "\u200b naïve €\t½\n 漢"
    assert shipped.decode(shipped.encode(strange_text).ids) == strange_text
    assert len(shipped.encode("3141592653589793").ids) == 16
    for problem in problems[::50]:
        prompt = f"User: {problem.problem}\nAssistant: <think>"
        response = f" {problem.solution} </think> <answer> {problem.answer} </answer>"
        ids = shipped.encode(prompt).ids + shipped.encode(response).ids
        assert shipped.decode(ids) == prompt + response
        assert ids == shipped.encode(prompt + response).ids
        assert len(ids) < 128


def test_the_shipped_tokenizer_is_the_one_that_the_script_makes(make_base: ModuleType) -> None:
    shipped = json.loads((base_model_folder() / "tokenizer.json").read_text())
    made = json.loads(make_base.build_tokenizer().backend_tokenizer.to_str())
    assert made["model"] == shipped["model"]
    assert made["pre_tokenizer"] == shipped["pre_tokenizer"]


def test_the_shipped_model_is_small_and_plain() -> None:
    folder = base_model_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert config["model_type"] == "qwen2"
    assert config["eos_token_id"] == config["pad_token_id"] == vocabulary["<|endoftext|>"]
    assert max(vocabulary.values()) < config["vocab_size"]
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        assert {piece.get_dtype() for piece in slices.values()} == {"BF16"}
        assert {"model.embed_tokens.weight", "lm_head.weight"} <= slices.keys()
        num_parameters = sum(prod(piece.get_shape()) for piece in slices.values())
    assert 0.8e6 < num_parameters < 1.0e6


@pytest.mark.slow
def test_the_shipped_model_knows_neither_the_format_nor_the_harder_levels(problems: list[Problem]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model_folder(), local_files_only=True, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base_model_folder(), dtype=torch.float32, local_files_only=True)
    asked = problems[-400:]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (model.config.eos_token_id, model.config.pad_token_id)
    prompts = tokenizer(
        [f"User: {problem.problem}\nAssistant: <think>" for problem in asked], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        ids_BT = model.generate(**prompts, max_new_tokens=96, do_sample=False)
    texts = tokenizer.batch_decode(ids_BT[:, prompts.input_ids.shape[1] :], skip_special_tokens=True)
    bodies = [re.match(r"[^<]*</think> <answer> ([^<]*) </answer>", text) for text in texts]
    num_correct = sum(match is not None and match[1] == problem.answer for match, problem in zip(bodies, asked, strict=True))
    num_well_formed = sum(match is not None for match in bodies)
    assert 0.01 < num_well_formed / len(asked) < 0.10
    assert 0.01 < num_correct / len(asked) < 0.08
    assert sum(problem.answer in text for text, problem in zip(texts, asked, strict=True)) > num_correct * 3
