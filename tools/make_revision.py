"""Writes an Alembic revision from the difference between the newest revision and the tables in the code.

    python tools/make_revision.py 0002 "Scores have a field for X"

Read what it wrote, then set HEAD in mathsft/store/revisions.py to the new revision.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from mathsft.store.revisions import MIGRATIONS


def make_revision(name: str, message: str) -> Path:
    """Return the file of the new revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with TemporaryDirectory() as folder, create_engine(f"sqlite:///{folder}/empty.db").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        script = command.revision(config, message, rev_id=name, autogenerate=True)
    return Path(script.path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the revision's number, as 0002")
    parser.add_argument("message", help="one sentence that says what changed")
    given = parser.parse_args()
    print(make_revision(given.name, given.message))
