"""Keeps tokenised examples on disk by the hash of all that they follow from; what cannot be read is tokenised again.

Files hold numbers only (safetensors), lie in the user's cache folder and are shared by all studies.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mathsft.answers.response_format import render_target
from mathsft.data.examples import Encoded, encode, render_prompt
from mathsft.records import Example, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZER_SUFFIXES = (".json", ".txt", ".model")
"""Of a model folder's files that decide its tokenizer; config.json, which may name the tokenizer's class, is among them."""

FORMAT = "mathsft examples 2"
"""To be changed whenever the arrays mean something else, or `encode` makes other examples of the same texts."""

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.integer[Any]]]"
Arrays: TypeAlias = Mapping[str, Array]


def content_key(problems: Sequence[Problem], template: str, max_length_tokens: int, tokenizer_folder: Path) -> str:
    """Return 32 hex digits that stand for the examples: texts as rendered, limit, the tokenizer's files and code."""
    texts = [
        (render_prompt(template, problem.problem), render_target(problem.solution, problem.answer)) for problem in problems
    ]
    code = [version("tokenizers"), version("transformers")]
    parts = [FORMAT, texts, max_length_tokens, code, tokenizer_hash(tokenizer_folder)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def tokenizer_hash(folder: Path) -> str:
    """Return 32 hex digits that stand for the files which decide a model folder's tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.suffix in TOKENIZER_SUFFIXES:
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def encode_cached(
    key: str, problems: Sequence[Problem], tokenizer: "PreTrainedTokenizerBase", template: str, max_length_tokens: int
) -> Encoded:
    """Return what `encode` returns, from the file of this content_key where there is one; raises what `encode` raises."""
    path = Path(platformdirs.user_cache_dir("mathsft")) / "encoded" / f"{key}.safetensors"
    if path.is_file():
        try:
            return _unpack(_read(path, key), problems)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            logger.warning("%s is not used, the problems are tokenised again: %s", path, error)
    encoded = encode(problems, tokenizer, template, max_length_tokens)
    try:
        _write(path, key, _pack(encoded, problems))
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be written, the next start will tokenise again: %s", path, error)
    return encoded


def _pack(encoded: Encoded, problems: Sequence[Problem]) -> Arrays:
    """Return the examples as flat arrays; `places` tells a problem of each example's id."""
    places = {problem.id: place for place, problem in enumerate(problems)}
    return {
        "places": np.array([places[example.problem_id] for example in encoded.examples], dtype=np.int32),
        "prompt_tokens": _flat([example.prompt_ids for example in encoded.examples]),
        "prompt_ends": _ends([example.prompt_ids for example in encoded.examples]),
        "response_tokens": _flat([example.response_ids for example in encoded.examples]),
        "response_ends": _ends([example.response_ids for example in encoded.examples]),
    }


def _unpack(arrays: Arrays, problems: Sequence[Problem]) -> Encoded:
    prompts = _split(arrays["prompt_tokens"], arrays["prompt_ends"])
    responses = _split(arrays["response_tokens"], arrays["response_ends"])
    examples = tuple(
        Example(problems[place].id, prompt, response)
        for place, prompt, response in zip(arrays["places"].tolist(), prompts, responses, strict=True)
    )
    return Encoded(examples, num_dropped=len(problems) - len(examples))


def _flat(ids: Sequence[tuple[int, ...]]) -> Array:
    return np.fromiter(chain.from_iterable(ids), dtype=np.int32)


def _ends(ids: Sequence[tuple[int, ...]]) -> Array:
    return np.cumsum([len(tokens) for tokens in ids], dtype=np.int64)


def _split(tokens: Array, ends: Array) -> list[tuple[int, ...]]:
    flat = tokens.tolist()
    return [tuple(flat[start:end]) for start, end in pairwise([0, *ends.tolist()])]


def _read(path: Path, key: str) -> Arrays:
    """Return the arrays of a file that is whole and lies under its own name; raises ValueError or SafetensorError else."""
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        digest = (file.metadata() or {}).get("digest")
    if digest != _digest(key, arrays):
        raise ValueError("it is corrupt")
    return arrays


def _write(path: Path, key: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of our own: other trainers may write the same file.
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=".partial", dir=path.parent) as partial:
        save_file(dict(arrays), Path(partial, path.name), {"digest": _digest(key, arrays)})
        Path(partial, path.name).replace(path)


def _digest(key: str, arrays: Arrays) -> str:
    digest = hashlib.blake2b(f"{FORMAT} {key}".encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
