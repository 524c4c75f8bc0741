"""Turns problems into tokenised training examples with a prompt template.

Prompt and response are tokenised separately: the prompt ids of an evaluator are an exact prefix of the training example.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mathsft import prompts
from mathsft.data.raw_rows import excerpt
from mathsft.errors import UserError
from mathsft.records import Example, Problem
from mathsft.tasks.math.response_format import render_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{problem}"


@dataclass(frozen=True)
class Encoded:
    """The examples that fit, in the order of their problems, and the number of examples that do not fit."""

    examples: tuple[Example, ...]
    num_dropped: int


def load_template(name: str) -> str:
    """Return a shipped template by name, or a file's text; raises UserError unless it contains {problem} exactly once."""
    shipped = {path.stem: path for path in (Path(prompts.__file__).parent / "templates").glob("*.txt")}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        raise UserError(
            f"prompt.template {name!r} is neither a shipped template ({', '.join(sorted(shipped))}) nor a file; give such a "
            "name or a text file"
        )
    try:
        template = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"prompt.template {name!r} is not UTF-8 ({error}); save it as a UTF-8 text file") from None
    if template.count(PLACEHOLDER) != 1:
        raise UserError(
            f"prompt.template {name!r} contains {PLACEHOLDER} {template.count(PLACEHOLDER)} times; write it exactly once"
        )
    return template


def render_prompt(template: str, problem_text: str) -> str:
    """Return the prompt of a problem; braces in the problem are kept as they are."""
    return template.replace(PLACEHOLDER, problem_text)


def encode(
    problems: "Sequence[Problem]", tokenizer: "PreTrainedTokenizerBase", template: str, max_length_tokens: int
) -> Encoded:
    """Return one example per problem that fits into max_length_tokens (prompt, response and EOS), and count the others.

    The prompt gets the special tokens that the tokenizer adds to a text, as in vLLM; the response gets only EOS. Raises
    UserError if the tokenizer has no EOS, appends EOS or cannot avoid a special token in a problem, or if no example fits.
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token; set eos_token in its tokenizer_config.json"
        )
    if tokenizer("1")["input_ids"][-1:] == [eos_id]:
        raise appends_eos(tokenizer.name_or_path)
    if not problems:
        return Encoded(examples=(), num_dropped=0)

    prompts = [render_prompt(template, problem.problem) for problem in problems]
    targets = [render_target(problem.solution, problem.answer) for problem in problems]
    prompt_ids = _token_ids(problems, prompts, render_prompt(template, ""), tokenizer, add_special_tokens=True)
    target_ids = _token_ids(problems, targets, render_target("", ""), tokenizer, add_special_tokens=False)
    lengths = [len(prompt) + len(target) + 1 for prompt, target in zip(prompt_ids, target_ids, strict=True)]
    examples = tuple(
        Example(problem_id=problem.id, prompt_ids=tuple(prompt), response_ids=(*target, eos_id))
        for problem, prompt, target, length in zip(problems, prompt_ids, target_ids, lengths, strict=True)
        if length <= max_length_tokens
    )
    if not examples:
        raise UserError(
            f"none of {len(problems)} examples fits into training.max_length_tokens = {max_length_tokens}; "
            f"raise it (the shortest has {min(lengths)} tokens)"
        )
    return Encoded(examples=examples, num_dropped=len(problems) - len(examples))


def appends_eos(tokenizer: str) -> UserError:
    """Return the error for a tokenizer (its folder) that ends every prompt with EOS."""
    return UserError(
        f"the tokenizer of {tokenizer!r} appends EOS to every text, so prompts would end before the model answers; set "
        "add_eos_token to false in its tokenizer_config.json, or take EOS out of the post_processor in its tokenizer.json"
    )


def no_embedding(tokenizer: str, num_rows: int, token_id: int, token: str, where: str) -> UserError:
    """Return the error for a tokenizer (its folder) that produces an id for which the embedding has no row."""
    return UserError(
        f"model.path: the embedding has {num_rows} rows, but the tokenizer of {tokenizer!r} produces the id {token_id} "
        f"({token}) {where}; resize the model's embedding to its tokenizer, or use the tokenizer that belongs to the model"
    )


def check_ids(examples: "Sequence[Example]", num_rows: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError unless the model's embedding, with num_rows rows, has a row for every token of the examples."""
    for example in examples:
        if (largest := max(example.prompt_ids + example.response_ids)) >= num_rows:
            token = str(tokenizer.convert_ids_to_tokens(largest))
            where = f"in problem {example.problem_id}"
            raise no_embedding(tokenizer.name_or_path, num_rows, largest, token, where)


def _token_ids(
    problems: "Sequence[Problem]",
    texts: "Sequence[str]",
    frame: str,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    add_special_tokens: bool,
) -> "Sequence[Sequence[int]]":
    """Return each text's ids; the only special tokens are those of the frame, which is the text around every problem.

    `</s>` in a problem must become four characters: as a token it would teach the model to stop within a response.
    """
    special_ids = _special_ids(tokenizer)

    def special(ids: "Sequence[int]") -> list[int]:
        return [token_id for token_id in ids if token_id in special_ids]

    def tokenize(texts: "Sequence[str]", **options: bool) -> "list[list[int]]":
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


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of special tokens, including EOS, without the token for unknown characters."""
    added = tokenizer.added_tokens_decoder
    # all_special_ids has only tokens with a role, such as EOS; Mistral's own tokenizer lists all special tokens there.
    marked = {token_id for token_id, token in added.items() if token.special} if isinstance(added, dict) else set()
    return ({*tokenizer.all_special_ids, *marked} - {tokenizer.unk_token_id}) | {tokenizer.eos_token_id}
