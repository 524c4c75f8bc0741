"""The renderer: what generation is given, what is trained on, where a response ends, and how it is read.

Training and scoring use the same object, so they cannot disagree.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mathsft.config.schema import PromptSettings
from mathsft.errors import UserError, excerpt
from mathsft.prompts.answer_format import AnswerFormat, ParsedResponse
from mathsft.prompts.chat import Chat
from mathsft.prompts.request import CHAT, answer_format, fill, request_template
from mathsft.prompts.tokens import token_ids
from mathsft.records import Example, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Conversation(Protocol):
    """How a problem is put to the model, and which token ends the answer."""

    adds_special_tokens: bool
    """Whether the tokenizer adds its special tokens, such as BOS, to a prompt."""
    end_id: int

    def prompt(self, problem_text: str) -> str:
        """Return the text that generation continues."""
        ...


class PlainText:
    """Prompts from a text around the problem. Raises UserError if the tokenizer has no EOS, or appends it to prompts."""

    adds_special_tokens = True
    """As in vLLM."""

    def __init__(self, template: str, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._template = template
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token; set eos_token in its tokenizer_config.json"
            )
        self.end_id: int = tokenizer.eos_token_id
        if tokenizer("1")["input_ids"][-1:] == [self.end_id]:
            raise appends_eos(tokenizer.name_or_path)

    def prompt(self, problem_text: str) -> str:
        return fill(self._template, problem_text)


class Renderer:
    """Renders problems, and parses responses."""

    def __init__(
        self, conversation: Conversation, answer_format: AnswerFormat, tokenizer: "PreTrainedTokenizerBase"
    ) -> None:
        self._conversation, self._format, self._tokenizer = conversation, answer_format, tokenizer

    @property
    def stop(self) -> tuple[str, ...]:
        """Return the strings that end a response, which includes them."""
        return self._format.stop

    @property
    def end_id(self) -> int:
        """Return the id of the token that ends a response: EOS, or the end of a turn in a chat."""
        return self._conversation.end_id

    @property
    def adds_special_tokens(self) -> bool:
        """Return whether the tokenizer adds its special tokens, such as BOS, to a prompt."""
        return self._conversation.adds_special_tokens

    def prompt(self, problem: Problem) -> str:
        """Return the text that generation continues."""
        return self._conversation.prompt(problem.problem)

    def texts(self, problems: Sequence[Problem]) -> list[tuple[str, str]]:
        """Return each problem's prompt, and the target that follows it, without the token that ends it."""
        prompts = map(self.prompt, problems)
        return [(prompt, self._target(problem, prompt)) for problem, prompt in zip(problems, prompts, strict=True)]

    def examples(self, problems: Sequence[Problem]) -> list[Example]:
        """Return each problem's prompt ids, which generation is given, and its target ids, which end with `end_id`.

        The ids of prompt and target are decoded to check that they read as their texts, or, where a tokenizer does not give
        back a text (it adds BOS, or replaces characters), as the ids of the whole text do.

        Raises UserError if a target is not read as its gold answer, if the ids of prompt and target are not those of one
        text, or if the tokenizer cannot avoid a special token in a problem.
        """
        if not problems:
            return []
        texts = self.texts(problems)
        for problem, (_, target) in zip(problems, texts, strict=True):
            self._check_parse(problem, target)
        ids = self._ids(problems, texts)
        return [
            Example(problem.id, tuple(prompt_ids), (*target_ids, self.end_id))
            for problem, (prompt_ids, target_ids) in zip(problems, ids, strict=True)
        ]

    def parse(self, text: str, finish_reason: str) -> ParsedResponse:
        """Parse a response."""
        return self._format.parse(text, finish_reason)

    def _target(self, problem: Problem, prompt: str) -> str:
        target = self._format.render(problem.solution, problem.answer)
        return target if prompt[-1:].isspace() or target[:1].isspace() else f" {target}"

    def _check_parse(self, problem: Problem, target: str) -> None:
        parsed = self._format.parse(target, "stop")
        if parsed.body != problem.answer.strip():
            raise UserError(
                f"the target of the problem {excerpt(problem.problem)} is read as {excerpt(parsed.body)}, not as its gold "
                f"answer {excerpt(problem.answer)}; correct the row, remove it, or choose another prompt.answer"
            )

    def _ids(self, problems: Sequence[Problem], texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Return the ids of each prompt and target, tokenised apart unless they then read differently."""
        adds, prompt_frame = self.adds_special_tokens, self._conversation.prompt("1")
        target_frame = self._format.render("", "")
        prompts, targets = ([text[part] for text in texts] for part in (0, 1))
        prompts_ids = token_ids(problems, prompts, prompt_frame, self._tokenizer, add_special_tokens=adds)
        targets_ids = token_ids(problems, targets, target_frame, self._tokenizer, add_special_tokens=False)
        ids = list(zip(prompts_ids, targets_ids, strict=True))
        decoded = self._decode([prompt_ids + target_ids for prompt_ids, target_ids in ids])
        differing = [place for place, text in enumerate(decoded) if text != "".join(texts[place])]
        if not differing:
            return ids
        rows, wholes = [problems[place] for place in differing], ["".join(texts[place]) for place in differing]
        wholes_ids = token_ids(rows, wholes, prompt_frame + target_frame, self._tokenizer, add_special_tokens=adds)
        for place, whole_ids, whole in zip(differing, wholes_ids, self._decode(wholes_ids), strict=True):
            if decoded[place] != whole:
                prompt_ids = prompts_ids[place]
                ids[place] = prompt_ids, self._in_context(problems[place], prompt_ids, whole_ids, decoded[place], whole)
        return ids

    def _decode(self, texts_ids: Sequence[Sequence[int]]) -> list[str]:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return list(self._tokenizer.batch_decode([list(ids) for ids in texts_ids], **options))

    def _in_context(
        self, problem: Problem, prompt_ids: list[int], whole_ids: list[int], decoded: str, whole: str
    ) -> list[int]:
        """Return the ids of the target within the whole text, where some tokenizers write its first word differently."""
        if whole_ids[: len(prompt_ids)] != prompt_ids:
            raise UserError(
                f"the tokenizer of {self._tokenizer.name_or_path!r} reads prompt and target of the problem "
                f"{excerpt(problem.problem)} differently apart ({excerpt(decoded[-60:])}) and together "
                f"({excerpt(whole[-60:])}); end the prompt with white space or a special token, or choose another model"
            )
        return whole_ids[len(prompt_ids) :]


def make_renderer(settings: PromptSettings, tokenizer: "PreTrainedTokenizerBase") -> Renderer:
    """Return the renderer of the settings; raises UserError if they do not fit the tokenizer."""
    chosen = answer_format(settings)
    if settings.template == CHAT:
        return Renderer(Chat(settings, chosen, tokenizer), chosen, tokenizer)
    return Renderer(PlainText(request_template(settings), tokenizer), chosen, tokenizer)


def appends_eos(tokenizer: str) -> UserError:
    """Return the error for a tokenizer (its folder) that ends every prompt with EOS."""
    return UserError(
        f"the tokenizer of {tokenizer!r} appends EOS to every text, so prompts would end before the model answers; set "
        "add_eos_token to false in its tokenizer_config.json, or take EOS out of the post_processor in its tokenizer.json"
    )
