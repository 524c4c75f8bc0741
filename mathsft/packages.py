"""Checks, without importing them, that the required packages are installed in builds that work together."""

import sys
from ctypes import CDLL
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

NEEDED = ("pydantic", "optuna", "sqlalchemy", "transformers", "torch", "vllm")
_UNNEEDED = ("torchaudio", "torchcodec", "torchvision")
"""Dependencies of vLLM that text-only models do not need. PyPI's CUDA builds break vLLM with a CPU build of torch."""

LIBRARY = "libnuma.so.1"


def installation_problem() -> str | None:
    """Return one line with the problem of the installation and its remedy; None if there is no problem."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return (
            f"mathsft is not installed in {sys.executable} ({missing[0]} is missing): in a checkout run `make install` and "
            "use .venv/bin/python in place of python; elsewhere install mathsft with its extra cpu or cuda"
        )
    if sys.flags.optimize > 1:
        return "PYTHONOPTIMIZE=2 (python -OO) removes docstrings, which libraries read when they are imported: unset it"
    if not _is_cpu_build("torch"):
        return None
    if breaking := [name for name in _UNNEEDED if find_spec(name) and not _is_cpu_build(name)]:
        names = " ".join(breaking)
        return f"{names}: builds for CUDA, which break vLLM beside torch {version('torch')}; remove: `pip uninstall {names}`"
    try:
        CDLL(LIBRARY)
    except OSError:
        return f"the library {LIBRARY} is missing, which vLLM's CPU build needs: install it (Debian's package is libnuma1)"
    return None


def _is_cpu_build(package: str) -> bool:
    try:
        return version(package).endswith("+cpu")
    except PackageNotFoundError:
        return False
