"""Turns problems into tokenised training examples of limited length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mathsft.errors import UserError
from mathsft.prompts.renderer import Renderer
from mathsft.records import Example, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """The examples that fit, in the order of their problems, and the number of examples that do not fit."""

    examples: tuple[Example, ...]
    num_dropped: int


def encode(problems: Sequence[Problem], renderer: Renderer, max_length_tokens: int) -> Encoded:
    """Return one example per problem that fits into max_length_tokens (prompt, response and its end), and count the others.

    Raises UserError as `Renderer.examples` does, or if no example fits.
    """
    if not problems:
        return Encoded(examples=(), num_dropped=0)
    examples = renderer.examples(problems)
    lengths = [len(example.prompt_ids) + len(example.response_ids) for example in examples]
    fitting = tuple(example for example, length in zip(examples, lengths, strict=True) if length <= max_length_tokens)
    if not fitting:
        raise UserError(
            f"none of {len(problems)} examples fits into training.max_length_tokens = {max_length_tokens}; "
            f"raise it (the shortest has {min(lengths)} tokens)"
        )
    return Encoded(examples=fitting, num_dropped=len(problems) - len(fitting))


def no_embedding(tokenizer: str, num_rows: int, token_id: int, token: str, where: str) -> UserError:
    """Return the error for a tokenizer (its folder) that produces an id for which the embedding has no row."""
    return UserError(
        f"model.path: the embedding has {num_rows} rows, but the tokenizer of {tokenizer!r} produces the id {token_id} "
        f"({token}) {where}; resize the model's embedding to its tokenizer, or use the tokenizer that belongs to the model"
    )


def check_ids(examples: Sequence[Example], num_rows: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError unless the model's embedding, with num_rows rows, has a row for every token of the examples."""
    for example in examples:
        if (largest := max(example.prompt_ids + example.response_ids)) >= num_rows:
            token = str(tokenizer.convert_ids_to_tokens(largest))
            where = f"in problem {example.problem_id}"
            raise no_embedding(tokenizer.name_or_path, num_rows, largest, token, where)
