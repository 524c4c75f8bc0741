r"""The answer format "boxed": the answer is in the last \boxed{…} of the response."""

from mathsft.boxes import last_box
from mathsft.prompts.answer_format import AnswerFormat, ParsedResponse

_THINK_CLOSE = "</think>"
"""A model that thinks first may write boxes while it thinks; they are no answer."""


def render_target(solution: str, answer: str) -> str:
    """Return the completion to train on: the solution, and the answer in a box unless the solution ends with that box."""
    if parse_response(solution, "stop").body == answer:
        return solution
    return f"{solution}\n\\boxed{{{answer}}}" if solution else f"\\boxed{{{answer}}}"


def parse_response(text: str, finish_reason: str) -> ParsedResponse:
    """Parse a completion. One that was cut by the token limit has no last box, so it is incomplete."""
    body, fault = None, "missing_box"
    try:
        body = last_box(text.rpartition(_THINK_CLOSE)[2])
    except ValueError:
        fault = "open_box"
    if body is not None and finish_reason != "length":
        return ParsedResponse("", body.strip(), (), is_strict=True)
    flags = (fault,) if body is None else ()
    return ParsedResponse("incomplete_generation" if finish_reason == "length" else fault, None, flags, is_strict=False)


FORMAT = AnswerFormat(
    request=r"Please reason step by step, and put your final answer within \boxed{}.",
    opening="",
    stop=(),
    render=render_target,
    parse=parse_response,
)
"""Only the end of the turn stops generation: text after a box may hold a later one."""
