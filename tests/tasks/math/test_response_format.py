"""The response format: what is rendered can be parsed, why it fails, and how gold answers are read."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.tasks.math.response_format import TAGS, extract_gold, parse_response, render_target, tag_flags

# No deadline: the machine may be busy.
repeatable = settings(derandomize=True, deadline=None)
pieces = st.one_of(st.text(), st.sampled_from([*TAGS, "<", ">", "$", "\n", "\\boxed{", "####"]))
texts_with_tags = st.lists(pieces, max_size=12).map("".join)


def test_target_is_the_format_to_the_letter() -> None:
    assert render_target("2+2 is 4.", "4") == " 2+2 is 4. </think> <answer> 4 </answer>"


@repeatable
@given(texts_with_tags, texts_with_tags, st.sampled_from(["stop", "length"]))
def test_what_passes_extract_gold_renders_to_a_well_formed_target(solution: str, answer: str, finish_reason: str) -> None:
    try:
        gold = extract_gold(answer, solution)
    except ValueError:
        return
    parsed = parse_response(render_target(solution, gold), finish_reason)
    assert parsed.is_strict
    assert parsed.body == gold
    assert parsed.reason == ""


@pytest.mark.parametrize(
    ("joint", "is_strict"), [(" ", True), ("", False), ("  ", False), ("\n", False), ("\t", False), (" \n", False)]
)
def test_the_strict_format_has_exactly_one_space_between_the_tags(joint: str, is_strict: bool) -> None:
    parsed = parse_response(f"so </think>{joint}<answer> 4 </answer> then </think> <answer>", "stop")
    assert (parsed.body, parsed.is_strict) == ("4", is_strict)


@repeatable
@given(texts_with_tags, st.sampled_from(["stop", "length"]))
def test_a_body_a_reason_and_the_format_go_together(text: str, finish_reason: str) -> None:
    parsed = parse_response(text, finish_reason)
    assert (parsed.body is not None) == (parsed.reason == "")
    assert parsed.body is not None or not parsed.is_strict
    if parsed.body is None and finish_reason == "length":
        assert parsed.reason == "incomplete_generation"


def test_flags_overlap() -> None:
    assert tag_flags("nothing") == ("missing_think_close", "missing_answer_open", "missing_answer_close")
    assert tag_flags("</answer> <answer>") == ("missing_think_close", "wrong_order")
    assert tag_flags("</think> <answer> </answer>") == ()
    assert parse_response("x </answer>", "length").tag_flags == ("missing_think_close", "missing_answer_open")


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
        ("5</answer>", "", "</answer>"),
        ("5", "so </think> 5", "</think>"),
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
