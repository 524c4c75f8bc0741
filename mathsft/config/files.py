"""Where the files of studies and experiments lie, the user's own and those that mathsft ships, and where results go."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from mathsft.errors import UserError

STUDIES = Path("studies")
"""Under the current directory: the results of studies that are named, or shipped."""
_FOLDERS = {"study": "studies", "experiment": "experiments"}


def find(kind: Literal["study", "experiment"], wanted: str, study_path: Path | None, origin: str) -> Path:
    """Return the YAML file of a name or path: under the current directory, beside the study that asks, or shipped.

    Raises UserError, which `origin` begins, where there is none.
    """
    roots = [Path(), *([study_path.resolve().parent.parent] if study_path else []), _shipped()]
    folders = [root / _FOLDERS[kind] for root in roots]
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    if "/" not in wanted and not wanted.endswith((".yaml", ".yml")):
        candidates = [folder / f"{wanted}.yaml" for folder in folders]
        near = get_close_matches(wanted, known, 1)
        missing = f"no {kind} named {wanted!r}"
    else:
        path = Path(wanted).expanduser()
        candidates = [path, *([study_path.parent / path] if study_path else [])]
        near = [f"{path}.yaml"] if Path(f"{path}.yaml").is_file() else []
        missing = f"{wanted}: a folder, not a YAML file" if path.is_dir() else f"{wanted}: no such file"
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{origin}: {missing}; {hint}give a YAML file or one of {', '.join(known) or 'none'}")


def results_folder(study_path: Path) -> Path:
    """Return the folder of all that a study produces: beside its file, for a shipped study under the current directory."""
    is_shipped = study_path.parent.resolve() == _shipped() / "studies"
    return (STUDIES if is_shipped else study_path.parent) / study_path.stem


def _shipped() -> Path:
    """Return the folder that holds the shipped studies/ and experiments/: in an installed wheel, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    in_wheel = package / "shipped"
    return in_wheel if in_wheel.is_dir() else package.parent
