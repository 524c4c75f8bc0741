"""Gives every problem text its fixed place between 0 and 1, from which all pools are cut; knows nothing of the pools."""

import hashlib


def pool_position(problem: str) -> float:
    """Return a number between 0 and 1, uniform over texts, that depends on nothing but the problem's text."""
    digest = hashlib.sha256(problem.encode()).hexdigest()
    return int(digest[:16], 16) / 2**64
