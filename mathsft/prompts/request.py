"""The text around a problem: the whole prompt, or in a chat the user's message. It needs no tokenizer."""

import json
from pathlib import Path

from mathsft.config.schema import PromptSettings
from mathsft.errors import UserError
from mathsft.prompts import boxed, tags
from mathsft.prompts.answer_format import AnswerFormat

PLACEHOLDER = "{problem}"
CHAT = "chat"
"""The prompt.template that stands for the chat template of the tokenizer."""

_FORMATS: dict[str, AnswerFormat] = {"tags": tags.FORMAT, "boxed": boxed.FORMAT}


def answer_format(settings: PromptSettings) -> AnswerFormat:
    """Return the answer format of the settings."""
    return _FORMATS[settings.answer]


def request_template(settings: PromptSettings) -> str:
    """Return the text around the problem, which contains {problem} exactly once; raises UserError if a file has it not."""
    if settings.template == CHAT:
        return settings.message or f"{PLACEHOLDER}\n\n{answer_format(settings).request}"
    return load_template(settings.template)


def fill(template: str, problem_text: str) -> str:
    """Return the template with the problem; braces in the problem are kept as they are."""
    return template.replace(PLACEHOLDER, problem_text)


def prompt_identity(settings: PromptSettings) -> str:
    """Return a text that differs for settings with other prompts or targets; a chat template is in the tokenizer's files."""
    is_chat = settings.template == CHAT
    return json.dumps([request_template(settings), settings.answer, is_chat, settings.system, settings.chat_arguments])


def load_template(name: str) -> str:
    """Return a shipped template by name, or a file's text; raises UserError unless it contains {problem} exactly once."""
    shipped = {path.stem: path for path in (Path(__file__).parent / "templates").glob("*.txt")}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        raise UserError(
            f"prompt.template {name!r} is neither a shipped template ({', '.join(sorted(shipped))}), nor chat, nor a file; "
            "give such a name or a text file"
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
