"""The text of a response, whatever bytes its tokens are."""

import pytest

from mathsft.evaluation.engine import whole_text


@pytest.mark.parametrize(
    ("held", "stop_reason", "whole", "expected"),
    [
        ("", None, "\ufffd\ufffd", "\ufffd\ufffd"),  # nothing but broken characters
        ("12 ", None, "12 \ufffd", "12 \ufffd"),  # cut in the middle of one
        ("12", None, "12", "12"),
        ("12</answer>", "</answer>", "12</answer> and more", "12</answer>"),  # tokens may go on behind a stop string
        ("12", 2, "12", "12"),  # a stop token's id
        (" 12", None, "12", " 12"),  # a tokenizer that decodes a whole text otherwise than in parts
    ],
)
def test_what_was_held_back_belongs_to_the_text(held: str, stop_reason: int | str | None, whole: str, expected: str) -> None:
    assert whole_text(held, stop_reason, lambda: whole) == expected
