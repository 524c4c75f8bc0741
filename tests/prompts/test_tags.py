"""The answer format "tags": what is rendered can be parsed, and why a format fails."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.prompts.tags import TAGS, check_tags, parse_response, render_target, tag_flags
from mathsft.records import Problem
from mathsft.tasks.math.gold import extract_gold

# No deadline: the machine may be busy.
repeatable = settings(derandomize=True, deadline=None)
pieces = st.one_of(st.text(), st.sampled_from([*TAGS, "<", ">", "$", "\n", "\\boxed{", "####"]))
texts_with_tags = st.lists(pieces, max_size=12).map("".join)


def test_target_is_the_format_to_the_letter() -> None:
    assert render_target("2+2 is 4.", "4") == " 2+2 is 4. </think> <answer> 4 </answer>"


@repeatable
@given(texts_with_tags, texts_with_tags, st.sampled_from(["stop", "length"]))
def test_what_can_be_loaded_renders_to_a_well_formed_target(solution: str, answer: str, finish_reason: str) -> None:
    try:
        gold = extract_gold(answer, solution)
        check_tags(Problem("p", "", solution, gold))
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
    ("solution", "answer", "complaint"),
    [("", "5</answer>", "gold answer holds the tag </answer>"), ("so </think> 5", "5", "solution holds the tag </think>")],
)
def test_a_tag_in_a_row_would_break_its_target(solution: str, answer: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_tags(Problem("p", "", solution, answer))
