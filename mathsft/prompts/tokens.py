"""Turns texts into token ids; the text of a special token in a problem stays text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mathsft.errors import UserError, excerpt
from mathsft.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_ids(
    problems: Sequence[Problem],
    texts: Sequence[str],
    frame: str,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    add_special_tokens: bool,
) -> list[list[int]]:
    """Return each text's ids; the only special tokens are those of the frame, which is the text around every problem.

    `</s>` in a problem must become four characters: as a token it would teach the model to stop within a response. Raises
    UserError with the problem if the tokenizer can read them only as a token.
    """
    special_ids = special_token_ids(tokenizer)

    def special(ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in ids if token_id in special_ids]

    def tokenize(texts: Sequence[str], **options: bool) -> list[list[int]]:
        encoded = tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False, **options)
        return list(encoded["input_ids"])

    expected = special(tokenize([frame])[0])
    texts_ids = tokenize(texts)
    for place, ids in enumerate(texts_ids):
        if (found := special(ids)) != expected:
            (texts_ids[place],) = tokenize([texts[place]], split_special_tokens=True)
            if special(texts_ids[place]) != expected:
                tokens = ", ".join(sorted(set(tokenizer.convert_ids_to_tokens(found))))
                raise UserError(
                    f"the problem {excerpt(problems[place].problem)} holds {tokens}, in its text, solution or answer, and "
                    "the tokenizer can read this only as special tokens; change the text, or remove the row"
                )
    return texts_ids


def special_token_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of special tokens, including EOS, without the token for unknown characters."""
    added = tokenizer.added_tokens_decoder
    # all_special_ids has only tokens with a role, such as EOS; Mistral's own tokenizer lists all special tokens there.
    marked = {token_id for token_id, token in added.items() if token.special} if isinstance(added, dict) else set()
    eos = {tokenizer.eos_token_id} - {None}
    return ({*tokenizer.all_special_ids, *marked} - {tokenizer.unk_token_id}) | eos
