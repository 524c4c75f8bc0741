"""Tells whether an engine serves the weights that the trainer published, by what both make of a fixed text."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mathsft.records import LogprobCheck

FP32_TOLERANCE = 1e-4
"""Nats by which two ways to compute a token's log probability in fp32 may differ on average."""
BF16_TOLERANCE = 0.05
"""Nats by which the averages of both may differ in bf16, where single tokens differ by more."""
TAME_NATS = 10.0
"""A text that costs more a token than chance does comes from weights gone wild, with logits in the hundreds and thousands.
Differences then grow about as fast as the square (measured), and such weights are a bad trial, not a broken engine."""


@dataclass(frozen=True)
class Difference:
    """How far an engine's log probabilities are from the trainer's, and how far the precision explains."""

    nats: float
    """Per token: the mean of absolute differences in fp32, the difference of means in bf16; NaN from broken weights."""
    tolerance_nats: float
    num_tokens: int

    @property
    def is_explained(self) -> bool:
        """Tell whether the precision explains the difference; it does not explain NaN."""
        return self.nats <= self.tolerance_nats

    def __str__(self) -> str:
        return f"by {self.nats:.3g} nats a token, over {self.num_tokens} tokens"


def difference(logprob_check: LogprobCheck, logprobs: Sequence[float], engine_dtype: str) -> Difference:
    """Return how the engine's log probabilities differ from the trainer's."""
    differences = [ours - theirs for ours, theirs in zip(logprobs, logprob_check.logprobs, strict=True)]
    if engine_dtype == "float32":
        nats, tolerance = statistics.fmean(map(abs, differences)), FP32_TOLERANCE
    else:
        nats, tolerance = abs(statistics.fmean(differences)), BF16_TOLERANCE
    tolerance *= max(1.0, -statistics.fmean(logprob_check.logprobs) / TAME_NATS) ** 2
    return Difference(nats, tolerance, len(differences))
