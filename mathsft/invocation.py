"""What the user has to type to run things with this very Python, for messages that name a next command."""

import shutil
import sys
from pathlib import Path


def python() -> str:
    """Return "python" where the shell finds this interpreter under that name, else its path, relative where it can be."""
    return "python" if shutil.which("python") == sys.executable else _from_here(Path(sys.executable))


def tool(name: str) -> str:
    """Return what runs a tool that was installed beside this interpreter."""
    path = Path(sys.executable).with_name(name)
    return name if shutil.which(name) == str(path) else _from_here(path)


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
