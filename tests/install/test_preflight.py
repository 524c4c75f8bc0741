"""What make says before it installs anything, on machines that this one is not: their commands are stubs on the PATH."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_COMPILER = "gcc cannot compile C, but Triton needs it for the CUDA build: install gcc and libc's headers"
FITTING = {
    "uv": 'echo "$0 $*" >>"$0.calls"; [ "$1" = --version ] && echo uv 0.9.7; echo "      --excludes <EXCLUDES>"',
    "df": "echo header; echo /dev/vda 264212084 32242156 20000000 31% /",
    "ldconfig": 'echo "    libnuma.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnuma.so.1"',
    "gcc": "exit 0",
    "nvidia-smi": "echo 580.65.06; echo 580.65.06",
    "python3": "exit 0",
}
"""What a machine has on which nothing is wrong."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout as far as make looks at it before it installs."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    return tmp_path


def run(command: list[str], folder: Path, stubs: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a command that finds only the stubs and a few real tools; return its exit code and the lines on stderr."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("awk", "grep", "head", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, body in stubs.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "CC" and not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=folder, env={**env, "PATH": str(programs)}, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


def preflight(folder: Path, hardware: str, changed: Mapping[str, str | None]) -> tuple[int, list[str]]:
    """Return exit code and lines on a machine with some commands changed, or missing where they are None."""
    stubs = {name: body for name, body in {**FITTING, **changed}.items() if body is not None}
    code, lines = run(["/bin/sh", str(ROOT / "tools" / "preflight.sh"), hardware, "uv"], folder, stubs)
    return code, [line.removeprefix("Nothing was installed: ") for line in lines]


@pytest.mark.parametrize(
    ("hardware", "changed"),
    [
        ("cpu", {}),
        ("cuda", {}),
        ("cpu", {"gcc": None, "nvidia-smi": None}),  # nothing is compiled there
        ("cpu", {"nvidia-smi": "echo 470.1"}),
        ("cpu", {"uv": None}),
        ("cpu", {"python3": None}),
        ("cuda", {"gcc": None, "clang": "exit 0", "ldconfig": "exit 0"}),
        ("cuda", {"nvidia-smi": None}),  # as where an image is built
        ("cuda", {"nvidia-smi": "echo NVIDIA-SMI has failed; exit 9"}),
        ("cuda", {"nvidia-smi": "echo 1000.1"}),
    ],
)
def test_where_nothing_is_wrong_nothing_is_said(hardware: str, changed: dict[str, str | None], folder: Path) -> None:
    assert preflight(folder, hardware, changed) == (0, [])


@pytest.mark.parametrize(
    ("hardware", "changed", "said"),
    [
        ("gpu", {}, "HARDWARE=gpu is neither cpu nor cuda: set one of them"),
        ("cuda", {"gcc": None}, NO_COMPILER),
        ("cuda", {"gcc": "exit 1"}, NO_COMPILER),
        (
            "cuda",
            {"nvidia-smi": "echo 535.104.05; echo 535.104.05"},
            "the NVIDIA driver is 535.104.05, CUDA 13.0 needs 580: update it, or install the CPU build with HARDWARE=cpu",
        ),
        (
            "cpu",
            {"df": "echo header; echo /dev/vda 264212084 32242156 5000000 98% /"},
            "5.1 GB of disk are free in {folder}, the cpu build needs 6 GB: free disk space, or move this folder",
        ),
        (
            "cuda",
            {"df": "echo header; echo /dev/vda 264212084 32242156 11000000 96% /"},
            "11.3 GB of disk are free in {folder}, the cuda build needs 12 GB: free disk space, or move this folder",
        ),
        (
            "cpu",
            {"uv": "[ $1 = pip ] || echo uv 0.9.7"},
            "uv 0.9.7 is too old, version 0.9.8 is needed: update uv",
        ),
        (
            "cpu",
            {"ldconfig": "echo libnumax.so.1"},
            "the library libnuma.so.1 is missing, which vLLM's CPU build needs: install it (Debian's package is libnuma1)",
        ),
        (
            "cpu",
            {"uv": None, "python3": None},
            "neither uv nor python3 (to install uv) is installed: install one of them",
        ),
        (
            "cpu",
            {"uv": None, "python3": "exit 1"},
            "uv is not installed, and python3 has no module venv to install it: install uv, or Debian's python3-venv",
        ),
    ],
)
def test_what_is_wrong_is_one_line(hardware: str, changed: dict[str, str | None], said: str, folder: Path) -> None:
    assert preflight(folder, hardware, changed) == (2, [said.format(folder=folder)])


def test_each_thing_that_is_wrong_has_its_line(folder: Path) -> None:
    wrong = {"gcc": None, "nvidia-smi": "echo 470.1", "df": "echo header; echo /dev/vda 264212084 32242156 1000 98% /"}
    code, lines = preflight(folder, "cuda", wrong)
    assert (code, len(lines)) == (2, 3)


@pytest.mark.parametrize("target", ["study", "install", "test"])
def test_make_says_it_before_it_installs_anything(target: str, folder: Path) -> None:
    full = "echo header; echo /dev/vda 264212084 32242156 1000 98% /"
    code, lines = run([str(shutil.which("make")), target, "HARDWARE=cpu"], folder, {**FITTING, "df": full})
    assert code == 2
    assert lines[0].startswith("Nothing was installed: 0.0 GB of disk are free in ")
    assert {path.name for path in folder.iterdir()} == {"Makefile", "pyproject.toml", "tools", "bin"}
    assert (folder / "bin" / "uv.calls").read_text().split()[1:] == ["pip", "install", "--help"]


def test_make_takes_an_interpreter_with_headers_for_cuda_and_none_too_new(folder: Path) -> None:
    # The stub makes no environment, so that the install, which would come next, fails.
    run([str(shutil.which("make")), "install", "HARDWARE=cuda"], folder, {**FITTING, "touch": "exit 0"})
    [_, made, *_] = (folder / "bin" / "uv.calls").read_text().splitlines()
    assert made.split(maxsplit=1)[1] == "venv --python >=3.11,<3.15 --managed-python .venv"


@pytest.mark.parametrize(("hardware", "is_examined"), [("cuda", True), ("cpu", False)])
def test_make_study_examines_a_machine_with_a_cuda_device_before_its_first_study(
    folder: Path, hardware: str, is_examined: bool
) -> None:
    make = [str(shutil.which("make")), "--dry-run", "study", f"HARDWARE={hardware}"]
    planned = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert ("-m mathsft doctor" in planned) == is_examined
