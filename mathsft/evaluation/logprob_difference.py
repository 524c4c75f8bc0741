"""Decides whether an engine serves the trainer's published weights, from both log probabilities of a fixed text."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mathsft.records import LogprobCheck

_FP32_TOLERANCE = 1e-4
"""Largest mean absolute difference of a token's log probability in fp32, in nats."""
_BF16_TOLERANCE = 0.05
"""Largest difference of the mean log probabilities in bf16, in nats; single tokens differ by more."""
_MODERATE_LOSS_NATS = 10.0
"""A mean loss per token above this, about that of random guessing, comes from weights with logits in the hundreds and
thousands. Differences then grow about with the square of the loss (measured), and so does the tolerance: such weights are
the result of a bad trial, not of a broken engine."""


@dataclass(frozen=True)
class Difference:
    """The difference between an engine's and the trainer's log probabilities, and the tolerance of the precision."""

    nats: float
    """Per token: the mean of absolute differences in fp32, the difference of means in bf16; may be NaN."""
    tolerance_nats: float
    num_tokens: int

    @property
    def is_explained(self) -> bool:
        """Whether the difference is within the tolerance; False for NaN."""
        return self.nats <= self.tolerance_nats

    def __str__(self) -> str:
        return f"by {self.nats:.3g} nats per token, over {self.num_tokens} tokens"


def difference(logprob_check: LogprobCheck, logprobs: Sequence[float], engine_dtype: str) -> Difference:
    """Return the difference between the engine's log probabilities and those of the trainer."""
    differences = [engine - trainer for engine, trainer in zip(logprobs, logprob_check.logprobs, strict=True)]
    if engine_dtype == "float32":
        nats, tolerance = statistics.fmean(map(abs, differences)), _FP32_TOLERANCE
    else:
        nats, tolerance = abs(statistics.fmean(differences)), _BF16_TOLERANCE
    tolerance *= max(1.0, -statistics.fmean(logprob_check.logprobs) / _MODERATE_LOSS_NATS) ** 2
    return Difference(nats, tolerance, len(differences))
