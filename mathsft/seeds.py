"""Derives seeds from other seeds and names, with the same result on every machine."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**32) that depends on all parts and on their order."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
