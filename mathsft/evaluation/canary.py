"""Tells whether an engine serves the weights that the trainer published, by what both make of a fixed text."""

import statistics
from collections.abc import Sequence

from mathsft.records import Canary

FP32_TOLERANCE = 1e-4
"""Nats by which two ways to compute a token's log probability in fp32 may differ on average."""
BF16_TOLERANCE = 0.05
"""Nats by which the averages of both may differ in bf16, where single tokens differ by more."""
TAME_NATS = 10.0
"""A text that costs more a token than chance does comes from weights gone wild, with logits in the hundreds and thousands.
Differences then grow about as fast as the square (measured), and such weights are a bad trial, not a broken engine."""


def disagreement(canary: Canary, logprobs: Sequence[float], engine_dtype: str) -> str:
    """Return how the engine's log probabilities differ from the canary's, "" where no more than the precision explains."""
    differences = [ours - theirs for ours, theirs in zip(logprobs, canary.logprobs, strict=True)]
    if engine_dtype == "float32":
        found, tolerance = statistics.fmean(map(abs, differences)), FP32_TOLERANCE
    else:
        found, tolerance = abs(statistics.fmean(differences)), BF16_TOLERANCE
    tolerance *= max(1.0, -statistics.fmean(canary.logprobs) / TAME_NATS) ** 2
    # Not "found > tolerance": NaN is a disagreement, too.
    return "" if found <= tolerance else f"by {found:.3g} nats a token, over {len(differences)} tokens"
