"""Reads the fields that the rows of all tasks share, and identifies problems by their text."""

import hashlib

from mathsft.errors import excerpt
from mathsft.tasks.task import Row, UnreadableRowError


def problem_id(text: str) -> str:
    """Return the id of a problem: 12 hex digits of its text's SHA-256, shared by all its solutions."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pool_position(text: str) -> float:
    """Return a number between 0 and 1, uniform over texts, that depends only on the problem's text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def is_blank(value: object) -> bool:
    """Return whether a value of a row is missing or only white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def problem_key(row: Row) -> str:
    """Return the key of the problem's text: "problem", or "question"; raises UnreadableRowError if the row has neither."""
    key = next((key for key in ("problem", "question") if key in row), None)
    if key is None:
        raise UnreadableRowError(
            f"the row has the keys {excerpt(sorted(row))}; it needs problem and solution, or question and answer"
        )
    return key


def text_of(row: Row, key: str) -> str:
    """Return the row's text under the key, without white space around it; raises UnreadableRowError if there is none."""
    value = row[key]
    if not isinstance(value, str) or is_blank(value):
        raise UnreadableRowError(f"{key} is {excerpt(value)}; write a text that is not empty")
    try:
        value.encode()  # JSON can contain half of a surrogate pair, which neither tokenizers nor hashes accept
    except UnicodeEncodeError:
        raise UnreadableRowError(
            f"{key} holds half of a surrogate pair, in {excerpt(value)}; write the whole character"
        ) from None
    return value.strip()


def subject_of(row: Row) -> str | None:
    """Return the row's type or subject as text, or None."""
    subject = row.get("type", row.get("subject"))
    return None if subject is None else str(subject).encode(errors="replace").decode()
