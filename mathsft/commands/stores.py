"""Opens the store of a study: locked by the driver that writes to it, or unlocked for a reader."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mathsft.config.document import read_document
from mathsft.config.files import STUDIES, results_folder
from mathsft.errors import UserError
from mathsft.layout import StudyLayout
from mathsft.store.database import Database
from mathsft.store.lock import locked
from mathsft.store.study_store import StudyStore
from mathsft.workers.backend import Backend


@contextmanager
def locked_store(layout: StudyLayout, storage: str | None) -> Iterator[StudyStore]:
    """Lock the study's folder and open its store; with a database server, lock the study there, too."""
    with locked(layout), _opened(layout, Database.of(layout, storage), is_driver=True) as store:
        yield store


def share_study(backend: Backend, layout: StudyLayout, storage: str | None) -> None:
    """Check that all machines see the study's folder, and that no SQLite file would lie in a folder that computers share."""
    num_computers = backend.share(layout)
    if num_computers > 1 and not Database.of(layout, storage).is_server:
        raise UserError(
            f"{layout.root}: {num_computers} computers share this folder, where an SQLite file is not safe; give a database "
            "server: --storage postgresql+psycopg://USER@HOST:5432/DATABASE"
        )


@contextmanager
def store_if_begun(layout: StudyLayout, storage: str | None) -> Iterator[StudyStore | None]:
    """Open the store without a lock, since a driver may be running there; None if the study has not begun."""
    database = Database.of(layout, storage)
    if not database.is_server and not layout.database.exists():
        yield None
        return
    with _opened(layout, database) as store:
        yield None if database.is_server and store.settings() is None else store


@contextmanager
def store_to_read(study: str, storage: str | None) -> Iterator[StudyStore]:
    """Open the store of a study, given by name, file or folder, without a lock; raise UserError if there is none."""
    layout, storage = named_layout(study), storage_of(study, storage)
    with store_if_begun(layout, storage) as store:
        if store is None:
            names = ", ".join(layout.root.name for layout in all_studies(storage)) or "none yet"
            database = Database.of(layout, storage)
            place = database.shown if database.is_server else layout.root
            raise UserError(f"{study}: there is no study with results in {place}; studies with results: {names}")
        yield store


def all_studies(storage: str | None) -> list[StudyLayout]:
    """Return the layouts of all studies on the database server; without one, of those in studies/ with a database file."""
    database = Database.of(StudyLayout(STUDIES), storage)
    if database.is_server:
        return [StudyLayout((STUDIES / name).absolute()) for name in StudyStore.studies(database)]
    return StudyLayout.all_in(STUDIES)


def storage_of(study: str, given: str | None) -> str | None:
    """Return the storage given on the command line, else that of the study's file, if there is one and it names any."""
    root = named_layout(study).root
    file = root.with_name(f"{root.name}.yaml")  # with_suffix would cut "qwen2.5" at its dot
    if given is not None or not file.is_file():
        return given
    storage = read_document(file)[0].get("storage")
    return storage if isinstance(storage, str) else None


def named_layout(study: str) -> StudyLayout:
    """Return the layout of a study's results; the study is given by name, file or folder."""
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        path = results_folder(path)
    elif not path.is_dir() and "/" not in study:
        path = STUDIES / study
    return StudyLayout(path.absolute())


def _opened(layout: StudyLayout, database: Database, is_driver: bool = False) -> closing[StudyStore]:
    return closing(StudyStore.open(database, layout.root.name, is_driver))
