"""Gives every problem text a fixed position between 0 and 1, by which the problems are sorted and cut into pools."""

import hashlib


def pool_position(problem: str) -> float:
    """Return a number between 0 and 1, uniform over texts, that depends only on the problem's text."""
    digest = hashlib.sha256(problem.encode()).hexdigest()
    return int(digest[:16], 16) / 2**64
