"""Checks a base model's config.json and tokenizer.json against the experiment before any worker starts.

The driver calls this, so torch is not imported. The trainer checks tokenizers without a tokenizer.json, with transformers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathsft.config.schema import Experiment, PromptSettings
from mathsft.data.examples import no_embedding
from mathsft.errors import UserError, excerpt
from mathsft.prompts.chat import no_chat_template
from mathsft.prompts.renderer import appends_eos
from mathsft.prompts.request import CHAT, answer_format, fill, request_template
from mathsft.records import Problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes for which vLLM's CPU build has attention kernels (vllm/v1/attention/backends/cpu_attn.py, 0.32)."""

_BATCH_TEXTS = 256


def check_model(folder: Path, experiment: Experiment, problems: Sequence[Problem], *, on_cpu: bool) -> None:
    """Raise UserError if the base model in `folder` cannot be trained or served with the experiment's settings."""
    config = _read(folder / "config.json")
    config |= config.get("text_config") or {}  # the language model of a model that has another part for images
    num_positions = _first(config, "max_position_embeddings", "n_positions")
    max_length_tokens = experiment.training.max_length_tokens
    if num_positions is not None and max_length_tokens > num_positions:
        raise UserError(
            f"training.max_length_tokens = {max_length_tokens}: the model in {folder} has {num_positions} positions; set "
            f"it to {num_positions} or less"
        )
    if on_cpu:
        _check_head_size(folder, config)
    if (folder / "tokenizer.json").is_file():
        _check_tokenizer(folder, config, experiment.prompt, problems)


def _check_head_size(folder: Path, config: dict[str, Any]) -> None:
    width, num_heads = _first(config, "hidden_size", "n_embd"), _first(config, "num_attention_heads", "n_head")
    if "kv_lora_rank" in config or not width or not num_heads:  # head sizes differ, or there are no heads
        return
    size = config.get("head_dim") or width // num_heads
    if size not in CPU_HEAD_SIZES:
        raise UserError(
            f"model.path: {folder} has attention heads of size {size}, and vLLM on a CPU serves only "
            f"{', '.join(map(str, CPU_HEAD_SIZES))}; choose another model, or a machine with a CUDA device"
        )


def _check_tokenizer(folder: Path, config: dict[str, Any], prompt: PromptSettings, problems: Sequence[Problem]) -> None:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises no more specific class
        raise UserError(f"model.path: {folder / 'tokenizer.json'} cannot be read ({error}); fetch the file again") from error
    # Truncation or padding would hide the last token of a text, and lengths are checked elsewhere.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = _read(folder / "tokenizer_config.json")
    eos = settings.get("eos_token") or ""
    eos_id = tokenizer.token_to_id(eos if isinstance(eos, str) else eos["content"])  # a string, or an object with settings
    is_chat = prompt.template == CHAT
    if is_chat and not (settings.get("chat_template") or (folder / "chat_template.jinja").is_file()):
        raise no_chat_template(str(folder))
    adds_eos = settings.get("add_eos_token") or (eos_id is not None and tokenizer.encode("1").ids[-1:] == [eos_id])
    if adds_eos and not is_chat:
        raise appends_eos(str(folder))
    num_rows = config.get("vocab_size")
    if num_rows is not None:
        _check_ids(folder, tokenizer, eos_id, num_rows, prompt, problems)


def _check_ids(
    folder: Path,
    tokenizer: "Tokenizer",
    eos_id: int | None,
    num_rows: int,
    prompt: PromptSettings,
    problems: Sequence[Problem],
) -> None:
    """Refuse a token without an embedding row if it occurs in a text; some models have such tokens, but only for images."""
    ids_without_row = {
        token_id: token for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items() if token_id >= num_rows
    }
    if not ids_without_row:
        return
    if eos_id in ids_without_row:
        raise no_embedding(str(folder), num_rows, eos_id, ids_without_row[eos_id], "for the end of every text")
    template, render = request_template(prompt), answer_format(prompt).render
    for start in range(0, len(problems), _BATCH_TEXTS):
        batch = problems[start : start + _BATCH_TEXTS]
        texts = [fill(template, row.problem) + render(row.solution, row.answer) for row in batch]
        for problem, encoded in zip(batch, tokenizer.encode_batch_fast(texts), strict=True):
            if found := next((token_id for token_id in encoded.ids if token_id in ids_without_row), None):
                where = f"in the problem {excerpt(problem.problem)}"
                raise no_embedding(str(folder), num_rows, found, ids_without_row[found], where)


def _first(config: dict[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _read(path: Path) -> dict[str, Any]:
    """Return the file's JSON object, or an empty one if there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.path: {path} is not JSON ({error}); fetch the file again") from None
    if not isinstance(content, dict):
        raise UserError(f"model.path: {path} contains no JSON object; fetch the file again")
    return content
