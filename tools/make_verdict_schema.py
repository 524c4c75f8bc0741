"""Writes the JSON schema of the verdicts that `mathsft show --json` and `mathsft compare --json` print."""

import json
from pathlib import Path

from pydantic import TypeAdapter

from mathsft.runs import verdict

SCHEMA = Path(verdict.__file__).with_name("verdict.schema.json")


def verdict_schema() -> str:
    """Return the content of the schema's file."""
    schema = TypeAdapter(verdict.PairedVerdict | verdict.StudyVerdict).json_schema(mode="serialization")
    dialect = "https://json-schema.org/draft/2020-12/schema"
    title = f"A verdict of mathsft, version {verdict.SCHEMA_VERSION}: of two checkpoints, or of a study"
    return json.dumps({"$schema": dialect, "title": title, **schema}, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(verdict_schema(), encoding="utf-8")
