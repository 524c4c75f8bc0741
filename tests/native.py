"""Which tests this machine's processor is made for."""

from pathlib import Path

import pytest


def multiplies_bf16() -> bool:
    """Return whether the processor has instructions for products in bf16: x86's avx512_bf16 or amx_bf16, Arm's bf16."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


needs_bf16 = pytest.mark.skipif(
    not multiplies_bf16(), reason="the processor emulates products in bf16, at a thirtieth of the speed or less"
)
