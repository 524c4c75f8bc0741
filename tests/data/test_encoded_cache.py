"""Tokenised examples on disk: a hit equals fresh work, anything that could change an example misses, damage is survived."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mathsft.data import encoded_cache
from mathsft.data.encoded_cache import content_key, encode_cached
from mathsft.data.examples import encode
from mathsft.errors import UserError
from mathsft.prompts import tags
from mathsft.prompts.renderer import Renderer
from mathsft.tasks.quickstart.generator import base_model_folder, generate
from tests.build import plain_renderer, renderer_of

LIMIT = 60
PROBLEMS = generate(40, 0)
PROBLEMS.insert(1, replace(PROBLEMS[0], solution="Another way to it."))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mathsft" / "encoded"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base_model_folder())


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerBase) -> Renderer:
    return renderer_of(tokenizer)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_work(*args: Any) -> None:
    raise AssertionError("tokenised anew")


def test_a_hit_equals_fresh_work_and_does_none(renderer: Renderer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encode(PROBLEMS, renderer, LIMIT)
    assert 0 < expected.num_dropped < len(PROBLEMS)
    key = content_key(PROBLEMS, renderer, LIMIT, base_model_folder())
    assert encode_cached(key, PROBLEMS, renderer, LIMIT) == expected
    assert list(files_in(cache)) == [f"{key}.safetensors"]
    monkeypatch.setattr(encoded_cache, "encode", no_work)
    assert encode_cached(key, PROBLEMS, renderer, LIMIT) == expected


def test_all_that_changes_an_example_misses(
    tokenizer: PreTrainedTokenizerBase, renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(base_model_folder(), tmp_path / "model")
    first, *others = PROBLEMS

    chatting = AutoTokenizer.from_pretrained(base_model_folder())
    chatting.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ tone }}{% endfor %}[assistant]"
    chats: list[dict[str, Any]] = [
        {},
        {"answer": "boxed"},
        {"system": "Be brief."},
        {"message": "{problem}"},
        {"chat_arguments": {"tone": "!"}},
    ]

    def key(problems: Any = PROBLEMS, renderer: Renderer = renderer, limit: int = LIMIT) -> str:
        return content_key(problems, renderer, limit, folder)

    keys = [
        key(),
        key([replace(first, problem="What is 1 + 1?"), *others]),
        key([replace(first, solution="So."), *others]),
        key([replace(first, answer="1"), *others]),
        key([*others, first]),
        key(others),
        key(renderer=plain_renderer(tokenizer, "User: {problem}\nAssistant: <think> ")),
        *(key(renderer=renderer_of(chatting, "chat", **prompt)) for prompt in chats),
        key(limit=LIMIT + 1),
    ]
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    keys.append(key())
    (folder / "chat_template.jinja").write_text("another template")
    keys.append(key())
    shouting = replace(tags.FORMAT, render=lambda solution, answer: f"{solution} {answer}!")
    keys.append(key(renderer=Renderer(renderer._conversation, shouting, tokenizer)))
    bare = renderer_of(tokenizer)
    bare._conversation.adds_special_tokens = False  # as in a chat, whose template writes BOS itself
    keys.append(key(renderer=bare))
    monkeypatch.setattr(encoded_cache, "FORMAT", "another way to encode")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert key() == keys[-1]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "of other problems"])
def test_a_damaged_file_is_ignored_and_written_anew(
    renderer: Renderer, cache: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    key, other_key = (content_key(problems, renderer, LIMIT, base_model_folder()) for problems in (PROBLEMS, PROBLEMS[5:]))
    expected = encode_cached(key, PROBLEMS, renderer, LIMIT)
    encode_cached(other_key, PROBLEMS[5:], renderer, LIMIT)
    whole = files_in(cache)
    path = cache / f"{key}.safetensors"
    content = whole[path.name]
    path.write_bytes(
        {
            "truncated": content[:-7],
            "one bit": content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
            "empty": b"",
            "of other problems": whole[f"{other_key}.safetensors"],
        }[damage]
    )
    caplog.set_level(logging.WARNING)
    assert encode_cached(key, PROBLEMS, renderer, LIMIT) == expected
    assert "is not used, the problems are tokenised again" in caplog.text
    assert files_in(cache) == whole


def test_a_cache_that_cannot_be_written_costs_only_time(
    renderer: Renderer, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert encode_cached("0", PROBLEMS, renderer, LIMIT) == encode(PROBLEMS, renderer, LIMIT)
    assert "cannot be written" in caplog.text


def test_users_mistakes_are_told_and_not_cached(renderer: Renderer, cache: Path) -> None:
    with pytest.raises(UserError, match="max_length_tokens = 3"):
        encode_cached("0", PROBLEMS, renderer, 3)
    assert not cache.exists()
