"""How gold answers are read from rows."""

import json
from pathlib import Path

import pytest

from mathsft.tasks.math.gold import extract_gold


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"first \boxed{1}, then $\boxed{2}$", "2"),
        (r"a set: $\boxed{\{1, 2\}}$", r"\{1, 2\}"),
        (r"an open interval's \boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"older: $\boxed 79$.", "79"),
        (r"older: $\boxed \frac12 $ of it", r"\frac12"),
        (r"no formula: \boxed 7, that is all", "7"),
        (r"framed: \fbox{12}", "12"),
        ("3*5=15\n#### 15", "15"),
        ("#### no\n#### 1,234,567 \n", "1234567"),
        (r"the box \boxed{3} goes before #### 4", "3"),
    ],
)
def test_gold_from_a_solution(solution: str, gold: str) -> None:
    assert extract_gold(None, solution) == gold


def test_the_answer_column_comes_first() -> None:
    assert extract_gold(" 5 ", r"\boxed{6}") == "5"


@pytest.mark.parametrize(
    ("answer", "solution", "reason"),
    [
        (None, "It is 7.", "neither"),
        (None, r"\boxed{\frac{1}{2}", "not closed"),
        (None, r"\boxed{ }", "empty"),
        (None, "####  ", "empty"),
        (None, r"ends in \boxed", "empty"),
        ("", r"\boxed{7}", "empty"),
        (".", "", "punctuation"),
        ("5\u200b1", "", "invisible"),
    ],
)
def test_gold_that_cannot_be_read_says_why(answer: str | None, solution: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        extract_gold(answer, solution)


def test_every_gold_of_gsm8k_is_a_number() -> None:
    folder = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"
    if not folder.is_dir():
        pytest.skip("no copy of GSM8K beside the repository")
    lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [extract_gold(None, json.loads(line)["answer"]) for line in lines]
    assert len(golds) == 1319
    assert all(float(gold) == float(gold) for gold in golds)
