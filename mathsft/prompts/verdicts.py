"""Turns completions into verdicts: an answer format reads the answers, and a task's grader compares them with the gold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mathsft.prompts.answer_format import ParsedResponse
from mathsft.records import Category, Verdict
from mathsft.tasks.task import Grader, Pair

_CATEGORIES: Mapping[bool | None, Category] = {True: "correct", False: "wrong_answer", None: "ungraded"}


@dataclass(frozen=True)
class Completion:
    """A model's completion, its finish reason, and the gold answer."""

    text: str
    finish_reason: str | None
    """None for a bare answer, which has no format."""
    gold: str


@dataclass(frozen=True)
class Graded:
    """The result of grading a completion."""

    verdict: Verdict
    """By the lenient format rule."""
    tag_flags: tuple[str, ...]
    is_strict: bool
    seconds: float
    """Time of the comparison; for a cached ruling, the time of the first comparison."""


def grade(completions: Sequence[Completion], parse: Callable[[str, str], ParsedResponse], grader: Grader) -> list[Graded]:
    """Return the result for each completion, in order; no completion can make this raise or hang."""
    parsed = [_parsed(completion, parse) for completion in completions]
    pairs = [
        Pair(response.body, completion.gold)
        for response, completion in zip(parsed, completions, strict=True)
        if response.body is not None
    ]
    rulings = iter(grader.compare(pairs))
    graded = []
    for response in parsed:
        if response.body is None:
            verdict, seconds = Verdict("format_failure", response.reason), 0.0
        else:
            ruling = next(rulings)
            verdict, seconds = Verdict(_CATEGORIES[ruling.is_equal], ruling.reason, response.body), ruling.seconds
        graded.append(Graded(verdict, response.tag_flags, response.is_strict, seconds))
    return graded


def _parsed(completion: Completion, parse: Callable[[str, str], ParsedResponse]) -> ParsedResponse:
    if completion.finish_reason is None:
        return ParsedResponse("", completion.text, (), is_strict=True)
    return parse(completion.text, completion.finish_reason)
