"""Makes the command lines that messages advise, in the form in which the user started the current command."""

import shlex
import shutil
import sys
from pathlib import Path

_SCRIPTS = {"study": "run_study.py", "final": "run_final.py"}
"""Command -> its script in a checkout."""


def command(name: str, *arguments: str) -> str:
    """Return the command line of a command of mathsft, started in the same way as the current one."""
    started = Path(sys.argv[0])
    if started.name == "mathsft":
        words = [_typed(started.absolute()), name]
    elif name in _SCRIPTS and started.name in _SCRIPTS.values():
        words = [python(), str(started.with_name(_SCRIPTS[name]))]
    else:
        words = [python(), "-m", "mathsft", name]
    return shlex.join([*words, *arguments])


def program(name: str = "") -> str:
    """Return the program name for the usage and the errors of a command, or of mathsft itself for ""."""
    started = Path(sys.argv[0]).name
    if name and started == _SCRIPTS.get(name):
        return started
    return f"{'mathsft' if started == 'mathsft' else 'python -m mathsft'} {name}".rstrip()


def python() -> str:
    """Return "python" if the shell finds this interpreter by that name, else its path, relative if possible."""
    return "python" if shutil.which("python") == sys.executable else _from_here(Path(sys.executable))


def tool(name: str) -> str:
    """Return the command that runs a tool installed beside this interpreter."""
    return _typed(Path(sys.executable).with_name(name))


def _typed(path: Path) -> str:
    """Return a program's name if the shell finds this program by it, else its path."""
    return path.name if shutil.which(path.name) == str(path) else _from_here(path)


def _from_here(path: Path) -> str:
    """Return the path, relative if possible, with "./" before a bare name, which the shell would search for in PATH."""
    if not path.is_relative_to(Path.cwd()):
        return str(path)
    relative = str(path.relative_to(Path.cwd()))
    return relative if "/" in relative else f"./{relative}"
