"""The wheel in an environment of its own: it works in a folder that holds nothing, and keeps itself as it is."""

import os
import shlex
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = [
    *("--set", "trial.num_examples=64"),
    *("--set", "trial.eval_points=[1]"),
    *("--set", "search.training.batch_size.choices=[8,16]"),
    *("--set", "data.pools.search=20"),
    *("--set", "data.pools.confirm=20"),
    *("--set", "data.pools.watch=20"),
    *("--set", "data.pools.test=20"),
    *("--set", "final.num_examples=64"),
    *("--set", "final.eval_points=[0,1]"),
    *("--set", "training.precision=fp32"),
    *("--set", "evaluation.max_tokens=48"),
]


@dataclass(frozen=True)
class Installed:
    """An environment with mathsft from its wheel, and all else from the environment that runs the tests."""

    environment: Path
    package: Path

    def run(self, *command: str, cwd: Path) -> str:
        """Run one of the environment's programs, found on the PATH; return what it printed."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTHONHOME"))}
        env["PATH"] = f"{self.environment / 'bin'}:{env['PATH']}"
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def files(self) -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in self.package.rglob("*") if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    site = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    # Its .pth files are not read there, so that the editable install of mathsft, which is one, stays behind.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(environment, site / "mathsft")


def test_the_package_that_is_imported_is_the_wheels(installed: Installed, tmp_path: Path) -> None:
    origin = installed.run("python", "-c", "import mathsft; print(mathsft.__file__)", cwd=tmp_path)
    assert Path(origin.strip()) == installed.package / "__init__.py"
    path = installed.run("python", "-c", "import sys; print(*sys.path, sep='\\n')", cwd=tmp_path).splitlines()
    assert str(ROOT) not in path


def test_the_wheel_holds_all_that_is_shipped(installed: Installed) -> None:
    def shipped(folder: Path, pattern: str) -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}

    assert shipped(installed.package / "data/assets", "**/*") == shipped(ROOT / "mathsft/data/assets", "**/*")
    for name in ("studies", "experiments"):
        assert shipped(installed.package / "shipped" / name, "**/*") == shipped(ROOT / name, "*.yaml")


def test_a_study_and_its_final_run_work_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    before = installed.files()
    study = installed.run("mathsft", "study", "--trials", "3", *TINY, cwd=tmp_path)
    assert f"Report: {tmp_path}/studies/quickstart/report.html" in study
    [following] = [shlex.split(line) for line in study.splitlines() if line.startswith("  mathsft final")]
    assert following == ["mathsft", "final", "--from-best", *TINY]
    final = installed.run(*following, cwd=tmp_path)
    assert "the model solves" in final
    shown = installed.run("mathsft", "show", cwd=tmp_path)
    assert "quickstart" in shown
    [following] = [shlex.split(line.removeprefix("Next: ")) for line in shown.splitlines() if line.startswith("Next: ")]
    assert following == ["mathsft", "show", "quickstart"]
    assert "Final run: final-" in installed.run(*following, cwd=tmp_path)
    report = (tmp_path / "studies/quickstart/report.md").read_text()
    assert "`mathsft show quickstart final --responses " in report
    assert {path.name for path in tmp_path.iterdir()} == {"studies"}
    assert installed.files() == before
