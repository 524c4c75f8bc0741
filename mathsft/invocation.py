"""What the user has to type to run things as this command was run, for messages that name a next command."""

import shlex
import shutil
import sys
from pathlib import Path

SCRIPTS = {"study": "run_study.py", "final": "run_final.py"}
"""The commands that have a script of their own in a checkout."""


def command(name: str, *arguments: str) -> str:
    """Return the line that runs a command of mathsft, started in the same way as this one."""
    started = Path(sys.argv[0])
    if started.name == "mathsft":
        words = [_typed(started.absolute()), name]
    elif name in SCRIPTS and started.name in SCRIPTS.values():
        words = [python(), str(started.with_name(SCRIPTS[name]))]
    else:
        words = [python(), "-m", "mathsft", name]
    return shlex.join([*words, *arguments])


def program(name: str = "") -> str:
    """Return what a command, or the program without one, calls itself in its usage and its errors."""
    started = Path(sys.argv[0]).name
    if name and started == SCRIPTS.get(name):
        return started
    return f"{'mathsft' if started == 'mathsft' else 'python -m mathsft'} {name}".rstrip()


def python() -> str:
    """Return "python" where the shell finds this interpreter under that name, else its path, relative where it can be."""
    return "python" if shutil.which("python") == sys.executable else _from_here(Path(sys.executable))


def tool(name: str) -> str:
    """Return what runs a tool that was installed beside this interpreter."""
    return _typed(Path(sys.executable).with_name(name))


def _typed(path: Path) -> str:
    """Return a program's name where the shell finds this very program under it, else its path."""
    return path.name if shutil.which(path.name) == str(path) else _from_here(path)


def _from_here(path: Path) -> str:
    """Return the path as a shell runs it: relative where it can be, and never a bare name, which would be searched for."""
    if not path.is_relative_to(Path.cwd()):
        return str(path)
    relative = str(path.relative_to(Path.cwd()))
    return relative if "/" in relative else f"./{relative}"
