"""What an answer format is: how a response gives its answer."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ParsedResponse:
    """A completion, parsed by an answer format."""

    reason: str
    """Why the format failed; empty if it holds."""
    body: str | None
    """The answer's text without white space around it; None if the format failed."""
    tag_flags: tuple[str, ...]
    """Parts that are missing or misplaced; several can apply."""
    is_strict: bool
    """The format holds, and so does its strict rule, if it has one."""


@dataclass(frozen=True)
class AnswerFormat:
    """How a response gives its answer: how it is asked for, written, ended and read."""

    request: str
    """The sentence after the problem that asks for this format, in a user's message."""
    opening: str
    """The text with which the prompt begins the response; empty if it begins none."""
    stop: tuple[str, ...]
    """Strings that end a response, which includes them."""
    render: Callable[[str, str], str]
    """(solution, answer) -> the completion to train on, without the token that ends it."""
    parse: Callable[[str, str], ParsedResponse]
    """(completion, finish reason) -> what was found; no text makes it raise."""
