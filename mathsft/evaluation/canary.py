"""Tells whether an engine serves the weights that the trainer published, by what both make of a fixed text."""

import statistics
from collections.abc import Sequence

from mathsft.records import Canary

FP32_TOLERANCE = 1e-4
"""Nats by which any token's log probability may differ between two ways to compute it in fp32."""
BF16_TOLERANCE = 0.05
"""Nats by which their mean may in bf16, where single tokens differ by more."""
TAME_NATS = 10.0
"""A text that costs more a token than chance does comes from weights gone wild, with logits in the hundreds and thousands.
Differences then grow about as fast as the square (measured), and such weights are a bad trial, not a broken engine."""


def disagreement(canary: Canary, logprobs: Sequence[float], engine_dtype: str) -> str:
    """Return how the engine's log probabilities differ from the canary's, "" where no more than the precision explains."""
    differences = [ours - theirs for ours, theirs in zip(logprobs, canary.logprobs, strict=True)]
    if engine_dtype == "float32":
        found, tolerance, what = max(map(abs, differences)), FP32_TOLERANCE, "by up to {:.3g} nats"
    else:
        found, tolerance, what = abs(statistics.fmean(differences)), BF16_TOLERANCE, "on average by {:.3g} nats"
    tolerance *= max(1.0, -statistics.fmean(canary.logprobs) / TAME_NATS) ** 2
    # Not "found > tolerance": NaN is a disagreement, too.
    return "" if found <= tolerance else f"{what.format(found)} a token, over {len(differences)} tokens"
