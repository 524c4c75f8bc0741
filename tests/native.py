"""Which tests this machine's processor is made for."""

import pytest

from mathsft.workers.machine import CPUINFO, bf16_flags

MULTIPLIES_BF16 = bool(bf16_flags(CPUINFO.read_text()))
"""Of the processor: tests train there, whatever CUDA devices there are."""

needs_bf16 = pytest.mark.skipif(not MULTIPLIES_BF16, reason="the processor emulates bf16 products: 30 to 200 times as slow")
