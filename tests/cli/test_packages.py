"""What is said where packages are missing, or of builds that break each other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mathsft import packages
from mathsft.packages import installation_problem


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return what puts a package of a version before all that is installed."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, version: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return install


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "NEEDED", ("pydantic", "not_installed_at_all"))
    assert "not_installed_at_all is missing): in a checkout run `make install`" in str(installation_problem())


@pytest.mark.parametrize(
    ("torch", "torchvision", "fits"),
    [("2.13.0+cpu", "0.28.0", False), ("2.13.0+cpu", "0.28.0+cpu", True), ("2.13.0", "0.28.0", True)],
)
def test_a_build_for_cuda_beside_a_cpu_build_of_torch_is_named(
    torch: str, torchvision: str, fits: bool, install: Callable[[str, str], None]
) -> None:
    install("torch", torch)
    install("torchvision", torchvision)
    said = installation_problem()
    assert fits == (said is None)
    if said is not None:
        assert said.startswith("torchvision: builds for CUDA, which break vLLM beside torch 2.13.0+cpu")
        assert said.endswith("`pip uninstall torchvision`")


def test_a_missing_library_is_named(install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    install("torch", "2.13.0+cpu")
    assert installation_problem() is None
    monkeypatch.setattr(packages, "LIBRARY", "libnuma.so.99")
    assert str(installation_problem()).startswith("the library libnuma.so.99 is missing, which vLLM's CPU build needs")
