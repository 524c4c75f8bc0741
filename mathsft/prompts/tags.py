"""The answer format "tags": the reasoning ends with </think>, and the answer is between <answer> and </answer>.

A response begins inside the think block that its prompt opened.
"""

from mathsft.prompts.answer_format import AnswerFormat, ParsedResponse
from mathsft.records import Problem

_THINK_CLOSE = "</think>"
_ANSWER_OPEN = "<answer>"
_ANSWER_CLOSE = "</answer>"
TAGS = ("<think>", _THINK_CLOSE, _ANSWER_OPEN, _ANSWER_CLOSE)
_STRICT_JOINT = f"{_THINK_CLOSE} {_ANSWER_OPEN}"


def render_target(solution: str, answer: str) -> str:
    """Return the completion to train on; `check_tags` must have checked both parts."""
    reasoning = f" {solution}" if solution else ""
    return f"{reasoning} {_THINK_CLOSE} {_ANSWER_OPEN} {answer} {_ANSWER_CLOSE}"


def parse_response(text: str, finish_reason: str) -> ParsedResponse:
    """Parse a completion, which begins inside the think block that the prompt opened."""
    flags = tag_flags(text)
    before_close, close, _ = text.partition(_ANSWER_CLOSE)
    _, *after_thinking = before_close.split(_THINK_CLOSE)
    answer_block = after_thinking[0].lstrip() if close and len(after_thinking) == 1 else ""
    body = answer_block.removeprefix(_ANSWER_OPEN)
    if body == answer_block or any(tag in body for tag in TAGS):
        # `tag_flags` returns its flags in order of priority.
        reason = "incomplete_generation" if finish_reason == "length" else next(iter(flags), "malformed")
        return ParsedResponse(reason, None, flags, is_strict=False)
    return ParsedResponse("", body.strip(), flags, is_strict=_STRICT_JOINT in before_close)


def tag_flags(text: str) -> tuple[str, ...]:
    """Return all of missing_think_close, missing_answer_open, missing_answer_close and wrong_order that apply.

    wrong_order compares the first occurrences of the tags that are present.
    """
    first_places = {
        "missing_think_close": text.find(_THINK_CLOSE),
        "missing_answer_open": text.find(_ANSWER_OPEN),
        "missing_answer_close": text.find(_ANSWER_CLOSE),
    }
    missing = tuple(flag for flag, place in first_places.items() if place < 0)
    present = [place for place in first_places.values() if place >= 0]
    return missing if present == sorted(present) else (*missing, "wrong_order")


def check_tags(problem: Problem) -> None:
    """Raise ValueError if a tag in the problem's gold answer or solution would end its training target."""
    for tag in TAGS:
        if tag in problem.answer:
            raise ValueError(f"the gold answer holds the tag {tag}")
    for tag in (_THINK_CLOSE, _ANSWER_CLOSE):
        if tag in problem.solution:
            raise ValueError(f"the solution holds the tag {tag}")


FORMAT = AnswerFormat(
    request="Think about the problem, end your reasoning with </think>, and then give only the final answer, as in "
    "<answer> 42 </answer>.",
    opening=TAGS[0],
    stop=(_ANSWER_CLOSE,),
    render=render_target,
    parse=parse_response,
)
"""Generation stops after </answer>."""
