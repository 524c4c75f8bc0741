"""Turns one completion into its Verdict; the format is `response_format`'s business, equality of value `equal`'s."""

from mathsft.answers.equal import equal
from mathsft.answers.response_format import parse, tag_flags
from mathsft.records import Verdict

__all__ = ["grade", "tag_flags"]


def grade(text: str, finish_reason: str, gold: str) -> Verdict:
    """Return the verdict on a completion; nothing that a model writes makes it raise."""
    parsed = parse(text, finish_reason)
    if parsed.body is None:
        return Verdict("format_failure", parsed.reason)
    return Verdict("correct" if equal(parsed.body, gold) else "wrong_answer", body=parsed.body)
