"""Identifies problems by their text."""

import hashlib


def problem_id(text: str) -> str:
    """Return the id of a problem: 12 hex digits of its text's SHA-256, shared by all its solutions."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pool_position(text: str) -> float:
    """Return a number between 0 and 1, uniform over texts, that depends only on the problem's text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
