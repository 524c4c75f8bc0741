"""What the sources must satisfy: lint, format, types and the direction of imports, each judged by its own tool."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = [
    "ruff check",
    "ruff format --check",
    pytest.param("mypy", marks=pytest.mark.slow),
    "lint-imports --no-cache",
    "python tools/draw_architecture.py --check",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_sources_satisfy(command: str) -> None:
    tool, *arguments = command.split()
    done = subprocess.run([Path(sys.executable).parent / tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{command}\n{done.stdout}{done.stderr}", pytrace=False)


def test_a_file_name_occurs_once() -> None:
    names = Counter(path.name for path in (ROOT / "mathsft").rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == [], "a file's name says what is in it without its folder"
