"""Computes the utilisation of a device: the rate of a step's operations as a share of the best rate of matrix products."""

import logging

import torch
from transformers import PreTrainedModel

from mathsft.training.meter.dimensions import dimensions_of
from mathsft.training.meter.flops import adapter_flops, model_flops
from mathsft.training.meter.gemm import best_gemm_flops_per_second
from mathsft.training.step import DTYPES, StepOutcome

logger = logging.getLogger(__name__)


class Utilization:
    """The utilisation of one model's steps. The best rate is measured after the first step of each precision."""

    def __init__(self, model: PreTrainedModel, device: torch.device, num_devices: int = 1) -> None:
        self._config = model.config
        self._flops = model_flops(model.config) if dimensions_of(model) else None
        self._device, self._num_devices = device, num_devices
        self._gemm_rates: dict[str, float] = {}

    def share(
        self, outcome: StepOutcome, precision: str, seconds: float, num_adapter_weights: int | None = None
    ) -> float | None:
        """Return the rate of the step's operations as a share of the best rate, or None if the operations are unknown.

        num_adapter_weights is the number of parameters that train beside the model's own, or None if all of these train.
        """
        if self._flops is None:
            return None
        flops = self._flops if num_adapter_weights is None else adapter_flops(self._config, num_adapter_weights)
        if precision not in self._gemm_rates:
            self._gemm_rates[precision] = best_gemm_flops_per_second(DTYPES[precision], self._device)
            logger.info("best rate of %s matrix products: %.0f GFLOP/s", precision, self._gemm_rates[precision] / 1e9)
        needed = flops.total(outcome.num_computed_tokens, outcome.num_attended_tokens, outcome.num_response_tokens)
        return needed / seconds / (self._num_devices * self._gemm_rates[precision])
