"""Finds the YAML files of studies and experiments, the user's and the shipped ones, and the folder of a study's results."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from mathsft.errors import UserError

STUDIES = Path("studies")
"""Folder of studies under the current directory. The results of shipped studies go there, too."""
_FOLDERS = {"study": "studies", "experiment": "experiments"}


def find_yaml_file(kind: Literal["study", "experiment"], wanted: str, study_path: Path | None, origin: str) -> Path:
    """Return the YAML file for a name or a path; raises UserError, which begins with `origin`, if there is none.

    Files under the current directory come first, then those beside the study at `study_path`, then the shipped ones.
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
    """Return the folder of a study's results: beside its file, or under the current directory for a shipped study."""
    is_shipped = study_path.parent.resolve() == _shipped() / "studies"
    return (STUDIES if is_shipped else study_path.parent) / study_path.stem


def _shipped() -> Path:
    """Return the folder that contains the shipped studies/ and experiments/, in an installed wheel or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    in_wheel = package / "shipped"
    return in_wheel if in_wheel.is_dir() else package.parent
