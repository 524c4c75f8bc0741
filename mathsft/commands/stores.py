"""Opens the store of a study: locked by the driver that writes to it, or unlocked for a reader."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

from mathsft.config.files import STUDIES, results_folder
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.store.lock import locked
from mathsft.store.study_store import StudyStore


@contextmanager
def locked_store(layout: StudyLayout) -> Iterator[StudyStore]:
    """Lock the study's folder and open its store."""
    with locked(layout), _opened(layout) as store:
        yield store


def store_if_begun(layout: StudyLayout) -> AbstractContextManager[StudyStore | None]:
    """Open the store without a lock, since a driver may be running there; None if the study has not begun."""
    return _opened(layout) if layout.database.exists() else nullcontext()


def store_to_read(study: str) -> AbstractContextManager[StudyStore]:
    """Open the store of a study, given by name, file or folder, without a lock; raise UserError if there is none."""
    layout = named_layout(study)
    if not layout.database.exists():
        names = ", ".join(other.root.name for other in StudyLayout.all_in(STUDIES)) or "none yet"
        raise UserError(f"{study}: there is no study with results in {layout.root}; studies with results: {names}")
    return _opened(layout)


def named_layout(study: str) -> StudyLayout:
    """Return the layout of a study's results; the study is given by name, file or folder."""
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        path = results_folder(path)
    elif not path.is_dir() and "/" not in study:
        path = STUDIES / study
    return StudyLayout(path.absolute())


def _opened(layout: StudyLayout) -> closing[StudyStore]:
    return closing(StudyStore.open(layout.database_url, layout.root.name))
