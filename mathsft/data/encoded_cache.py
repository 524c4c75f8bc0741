"""Caches tokenised examples on disk under a hash of everything that determines them.

The files contain only numbers (safetensors). They are in the user's cache folder and shared by all studies. If a file cannot
be read, the problems are tokenised again.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mathsft.data.examples import Encoded, encode
from mathsft.prompts.renderer import Renderer
from mathsft.records import Example, Problem

logger = logging.getLogger(__name__)

_TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""Suffixes of the files in a model's folder that may change its tokenizer or its chat template; config.json may name the
tokenizer's class."""

FORMAT = "mathsft examples 3"
"""Change this when the meaning of the arrays changes, or when `encode` makes other examples of the same texts."""

_Array: TypeAlias = "np.ndarray[Any, np.dtype[np.integer[Any]]]"
_Arrays: TypeAlias = Mapping[str, _Array]


def content_key(problems: Sequence[Problem], renderer: Renderer, max_length_tokens: int, tokenizer_folder: Path) -> str:
    """Return the examples' cache key, 32 hex digits: a hash of all that determines them.

    It covers the rendered texts, the special tokens around them, the limit, the tokenizer's files and versions.
    """
    texts = renderer.texts(problems)
    code = [version("tokenizers"), version("transformers")]
    ends = [renderer.adds_special_tokens, renderer.end_id]
    parts = [FORMAT, texts, ends, max_length_tokens, code, tokenizer_hash(tokenizer_folder)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def tokenizer_hash(folder: Path) -> str:
    """Return a hash, 32 hex digits, of the files in a model's folder that may change its tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.suffix in _TOKENIZER_SUFFIXES:
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def encode_cached(key: str, problems: Sequence[Problem], renderer: Renderer, max_length_tokens: int) -> Encoded:
    """Return the result of `encode`, from the cache file of this content_key if there is one; raises as `encode` does."""
    path = Path(platformdirs.user_cache_dir("mathsft")) / "encoded" / f"{key}.safetensors"
    if path.is_file():
        try:
            return _unpack(_read(path, key), problems)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            logger.warning("%s is not used, the problems are tokenised again: %s", path, error)
    encoded = encode(problems, renderer, max_length_tokens)
    try:
        _write(path, key, _pack(encoded, problems))
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be written, so the next start will tokenise the problems again: %s", path, error)
    return encoded


def _pack(encoded: Encoded, problems: Sequence[Problem]) -> _Arrays:
    """Return the examples as flat arrays; `places` has the index of each example's problem."""
    places = {problem.id: place for place, problem in enumerate(problems)}
    indices = [places[example.problem_id] for example in encoded.examples]
    arrays: dict[str, _Array] = {"places": np.array(indices, dtype=np.int32)}
    for part in ("prompt", "response"):
        ids = [getattr(example, f"{part}_ids") for example in encoded.examples]
        arrays[f"{part}_tokens"] = np.fromiter(chain.from_iterable(ids), dtype=np.int32)
        arrays[f"{part}_ends"] = np.cumsum(list(map(len, ids)), dtype=np.int64)
    return arrays


def _unpack(arrays: _Arrays, problems: Sequence[Problem]) -> Encoded:
    prompts, responses = (_split(arrays[f"{part}_tokens"], arrays[f"{part}_ends"]) for part in ("prompt", "response"))
    examples = tuple(
        Example(problems[place].id, prompt, response)
        for place, prompt, response in zip(arrays["places"].tolist(), prompts, responses, strict=True)
    )
    return Encoded(examples, num_dropped=len(problems) - len(examples))


def _split(tokens: _Array, ends: _Array) -> list[tuple[int, ...]]:
    flat = tokens.tolist()
    return [tuple(flat[start:end]) for start, end in pairwise([0, *ends.tolist()])]


def _read(path: Path, key: str) -> _Arrays:
    """Return the file's arrays; raises ValueError or SafetensorError if it is corrupt or belongs to another key."""
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safetensors file is not a mapping
        digest = (file.metadata() or {}).get("digest")
    if digest != _digest(key, arrays):
        raise ValueError("it is corrupt")
    return arrays


def _write(path: Path, key: str, arrays: _Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A temporary folder per writer and an atomic rename: other trainers may write the same file.
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=".partial", dir=path.parent) as partial:
        save_file(dict(arrays), Path(partial, path.name), {"digest": _digest(key, arrays)})
        Path(partial, path.name).replace(path)


def _digest(key: str, arrays: _Arrays) -> str:
    digest = hashlib.blake2b(f"{FORMAT} {key}".encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
