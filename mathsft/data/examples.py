"""Turns problems into tokenised training examples with a prompt template; packs and pads nothing.

Prompt and response are tokenised apart, so that the prompt an evaluator tokenises is an exact prefix of what was trained on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mathsft.answers.response_format import render_target
from mathsft.errors import UserError
from mathsft.records import Example, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{problem}"


@dataclass(frozen=True)
class Encoded:
    """The examples that fit, in the order of their problems, and how many did not."""

    examples: tuple[Example, ...]
    num_dropped: int


def load_template(name: str) -> str:
    """Return a shipped template by name or a file's whole text; UserError where it is unknown or lacks {problem}."""
    shipped = {path.stem: path for path in (Path(__file__).parent / "assets" / "prompts").glob("*.txt")}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        known = ", ".join(sorted(shipped))
        raise UserError(
            f"prompt.template {name!r} is neither a known template ({known}) nor a file; name one of these or a text file"
        )
    try:
        template = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"prompt.template {name!r} is not UTF-8 ({error}); save it as a UTF-8 text file") from None
    if template.count(PLACEHOLDER) != 1:
        raise UserError(
            f"prompt.template {name!r} holds {PLACEHOLDER} {template.count(PLACEHOLDER)} times; write it exactly once"
        )
    return template


def render_prompt(template: str, problem_text: str) -> str:
    """Return the prompt of a problem; braces in the problem mean nothing."""
    return template.replace(PLACEHOLDER, problem_text)


def encode(
    problems: "Sequence[Problem]", tokenizer: "PreTrainedTokenizerBase", template: str, max_length_tokens: int
) -> Encoded:
    """Return one example per problem that fits into max_length_tokens (prompt, response and EOS), and count the others.

    The prompt gets the special tokens that the tokenizer itself puts around a text, as in vLLM; the response gets EOS alone.
    UserError where the tokenizer has no EOS or nothing fits.
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token; name one (eos_token in tokenizer_config.json)"
        )
    if not problems:
        return Encoded(examples=(), num_dropped=0)

    prompts = [render_prompt(template, problem.problem) for problem in problems]
    targets = [render_target(problem.solution, problem.answer) for problem in problems]
    prompt_ids = tokenizer(prompts, verbose=False)["input_ids"]
    target_ids = tokenizer(targets, add_special_tokens=False, verbose=False)["input_ids"]
    examples = tuple(
        Example(problem_id=problem.id, prompt_ids=tuple(prompt), response_ids=(*target, eos_id))
        for problem, prompt, target in zip(problems, prompt_ids, target_ids, strict=True)
        if len(prompt) + len(target) + 1 <= max_length_tokens
    )
    if not examples:
        raise UserError(
            f"none of {len(problems)} examples fits into training.max_length_tokens = {max_length_tokens}; "
            f"raise it (the shortest has {min(map(_length, prompt_ids, target_ids))} tokens)"
        )
    return Encoded(examples=examples, num_dropped=len(problems) - len(examples))


def _length(prompt_ids: "Sequence[int]", target_ids: "Sequence[int]") -> int:
    """Return the tokens of prompt, response and EOS."""
    return len(prompt_ids) + len(target_ids) + 1
