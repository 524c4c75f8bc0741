"""How this process gets memory from the system."""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""mallopt's parameters. Source: glibc, malloc.h."""


def keep_freed_memory() -> None:
    """Make malloc keep what is freed: steps need the same large blocks again, and fresh pages cost more than some products.

    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 64 * 2**20)
