"""How well a device is used: the operations that a step needs, against the best matrix products of the same process."""

import logging

import torch
from transformers import PreTrainedModel

from mathsft.training.meter.dimensions import dimensions_of
from mathsft.training.meter.flops import model_flops
from mathsft.training.meter.gemm import best_gemm_flops_per_second
from mathsft.training.step import DTYPES, StepOutcome

logger = logging.getLogger(__name__)


class Utilization:
    """Rates one model's steps on devices of one kind; the best products are measured once, after a precision's first."""

    def __init__(self, model: PreTrainedModel, device: torch.device, num_devices: int = 1) -> None:
        self._flops = model_flops(model.config) if dimensions_of(model) else None
        self._device, self._num_devices = device, num_devices
        self._gemm_rates: dict[str, float] = {}

    def share(self, outcome: StepOutcome, precision: str, seconds: float) -> float | None:
        """Return the share of the best products' rate at which the step computed its tokens; None for an unknown model."""
        if self._flops is None:
            return None
        needed = self._flops.total(outcome.num_computed_tokens, outcome.num_attended_tokens, outcome.num_response_tokens)
        return needed / seconds / (self._num_devices * self._gemm_rate(precision))

    def _gemm_rate(self, precision: str) -> float:
        if precision not in self._gemm_rates:
            self._gemm_rates[precision] = best_gemm_flops_per_second(DTYPES[precision], self._device)
            logger.info("the best %s products: %.0f GFLOP/s", precision, self._gemm_rates[precision] / 1e9)
        return self._gemm_rates[precision]
