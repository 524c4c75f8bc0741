"""The Dockerfile as far as it can be checked without an engine: what it copies is there, and its context has it."""

import re
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copied() -> list[str]:
    """Return the paths in the build context that the Dockerfile copies."""
    lines = re.findall(r"^COPY (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [path for line in lines for path in line.split()[:-1]]


def in_context(path: str) -> bool:
    """Tell whether .dockerignore leaves a file in the build context: the last line that matches it or a folder above it."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    parts = [path, *map(str, Path(path).parents)]
    decided = [
        not pattern.startswith("!") for pattern in patterns if any(fnmatch(part, pattern.lstrip("!")) for part in parts)
    ]
    return not decided[-1]


def test_all_that_is_copied_is_there_and_in_the_context() -> None:
    paths = copied()
    assert {"mathsft", "pyproject.toml", "tools/preflight.sh"} <= set(paths)
    for path in paths:
        files = [path] if (ROOT / path).is_file() else [str(file.relative_to(ROOT)) for file in (ROOT / path).glob("*.*")]
        assert files
        assert all(map(in_context, files)), path


def test_neither_results_nor_environments_are_in_the_context() -> None:
    for path in (".git/config", ".venv/bin/python", ".uv/bin/uv", "studies/quickstart/study.db", "tests/conftest.py"):
        assert not in_context(path), path
    assert not in_context("mathsft/__pycache__/cli.cpython-311.pyc")
