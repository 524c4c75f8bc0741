"""Writes a problem as a user's message in the chat template of the tokenizer, with transformers' sandboxed renderer.

The prompt is the conversation that generation sees: it ends where the answer begins. The target follows it directly, because
a template may change an answer that it renders as part of a conversation: Qwen3's removes the thinking of earlier turns.
"""

import inspect
import re
from typing import TYPE_CHECKING, Any

from mathsft.config.schema import PromptSettings
from mathsft.errors import UserError, excerpt
from mathsft.prompts.answer_format import AnswerFormat
from mathsft.prompts.request import fill, request_template
from mathsft.prompts.tokens import special_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "What is 2 + 3?", "It is 5."
"""A conversation that shows what the template does."""
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


class Chat:
    """The prompts of a chat. Raises UserError if the template is missing, or cannot do what the settings ask."""

    adds_special_tokens = False
    """The template writes all special tokens, the BOS token included."""

    def __init__(self, settings: PromptSettings, answer_format: AnswerFormat, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._settings, self._tokenizer = settings, tokenizer
        self._folder = tokenizer.name_or_path
        self._request, self._opening = request_template(settings), ""
        if not getattr(tokenizer, "chat_template", None):
            raise no_chat_template(self._folder)
        self._check_arguments()
        probe = self.prompt(_QUESTION)
        self._check_system(probe)
        self._check_date(probe)
        self._opening = self._missing_opening(answer_format, after_message=probe.rpartition(self._message(_QUESTION))[2])
        self.end_id = self._end_of_turn()

    def prompt(self, problem_text: str) -> str:
        """Return the conversation up to the answer; raises UserError if the template changes the problem's text."""
        conversation = self._render(problem_text)
        if self._message(problem_text) not in conversation:
            raise UserError(
                f"prompt.template chat: the chat template of {self._folder!r} changes the user's message with the problem "
                f"{excerpt(problem_text)}; change the problem, or remove its row"
            )
        return conversation + self._opening

    def _messages(self, problem_text: str, system: str | None) -> list[dict[str, str]]:
        before = [{"role": "system", "content": system}] if system else []
        return [*before, {"role": "user", "content": self._message(problem_text)}]

    def _message(self, problem_text: str) -> str:
        return fill(self._request, problem_text).strip()

    def _render(self, problem_text: str, *answer: dict[str, str], **arguments: Any) -> str:
        """Return the conversation, ready for the answer or with it; extra arguments replace those of the settings."""
        messages = [*self._messages(problem_text, self._settings.system), *answer]
        try:
            return self._apply(messages, **arguments)
        except Exception as error:  # a template is code, and may raise anything
            raise self._refusal(problem_text, error) from error

    def _apply(self, messages: list[dict[str, str]], **arguments: Any) -> str:
        is_open = messages[-1]["role"] == "user"
        given = {**self._settings.chat_arguments, **arguments}
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_open, **given))

    def _refusal(self, problem_text: str, error: Exception) -> UserError:
        start = f"prompt.template chat: the chat template of {self._folder!r} refuses"
        if self._settings.system and self._accepts(self._messages(problem_text, None)):
            return UserError(f"{start} a system prompt ({error}); remove prompt.system, or put its text into prompt.message")
        return UserError(
            f"{start} a conversation of one question ({type(error).__name__}: {error}); correct the template or "
            "prompt.chat_arguments, or choose another prompt.template"
        )

    def _accepts(self, messages: list[dict[str, str]]) -> bool:
        try:
            self._apply(messages)
        except Exception:  # a template is code, and may raise anything
            return False
        return True

    def _check_arguments(self) -> None:
        template = str(self._tokenizer.get_chat_template())
        own = {*inspect.signature(self._tokenizer.apply_chat_template).parameters, "messages", "strftime_now"}
        for name in self._settings.chat_arguments:
            if name in own:
                raise UserError(f"prompt.chat_arguments.{name}: cannot be given; it is not the template's to choose")
            if not re.search(rf"\b{re.escape(name)}\b", template):
                raise UserError(
                    f"prompt.chat_arguments.{name}: the chat template of {self._folder!r} does not use it; correct the "
                    "name, or remove it"
                )

    def _check_system(self, probe: str) -> None:
        system = self._settings.system
        if system and system.strip() not in probe:
            raise UserError(
                f"prompt.system: the chat template of {self._folder!r} leaves the system prompt out; put its text into "
                "prompt.message"
            )

    def _check_date(self, probe: str) -> None:
        """Refuse a template that writes today's date: prompts would change from day to day, within one study."""
        if self._render(_QUESTION, strftime_now=lambda date_format: "another day") != probe:
            raise UserError(
                f"prompt.template chat: the chat template of {self._folder!r} writes today's date, so prompts would differ "
                "from day to day; give the date with prompt.chat_arguments (date_string in Llama's templates), or remove "
                "strftime_now from the template"
            )

    def _missing_opening(self, answer_format: AnswerFormat, after_message: str) -> str:
        """Return what the prompt lacks of the answer format's opening after the user's message."""
        is_thinking = after_message.rstrip().endswith(_THINK_OPEN)
        if is_thinking and not answer_format.opening:
            raise UserError(
                f"prompt.answer = {self._settings.answer}: the chat template of {self._folder!r} opens a think block, which "
                "such a response never closes; set prompt.answer to tags, or turn thinking off with prompt.chat_arguments "
                "(enable_thinking: false in Qwen's templates)"
            )
        if answer_format.opening and not is_thinking and _THINK_CLOSE in after_message:
            raise UserError(
                f"prompt.answer = {self._settings.answer}: the chat template of {self._folder!r} closes the think block in "
                "which such a response begins; set prompt.answer to boxed, or turn thinking on with prompt.chat_arguments"
            )
        return "" if is_thinking else answer_format.opening

    def _end_of_turn(self) -> int:
        """Return the id of the first special token that the template writes after an answer; without one, EOS."""
        after_answer = self._render(_QUESTION, {"role": "assistant", "content": _ANSWER}).rpartition(_ANSWER)[2]
        special_ids = {*special_token_ids(self._tokenizer), *self._tokenizer.get_added_vocab().values()}
        after_ids = self._tokenizer(after_answer, add_special_tokens=False)["input_ids"]
        end_id: int | None = next((one for one in after_ids if one in special_ids), self._tokenizer.eos_token_id)
        if end_id is None:
            raise UserError(
                f"prompt.template chat: nothing ends an answer in the chat template of {self._folder!r}, and its tokenizer "
                "has no EOS token; set eos_token in its tokenizer_config.json"
            )
        return end_id


def no_chat_template(folder: str) -> UserError:
    """Return the error for a model without a chat template."""
    return UserError(
        f"prompt.template chat: the tokenizer of {folder!r} has no chat template; choose an instruct model, add its "
        "chat_template.jinja to the folder, or choose another prompt.template"
    )
