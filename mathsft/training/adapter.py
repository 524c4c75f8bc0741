"""The model and torch's AdamW as flat tensors by name: the two methods of a TrainingStep that full states need."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW


class StepTensors:
    """All tensors that the next step of a model and its optimizer depends on."""

    def __init__(self, model: nn.Module, optimizer: AdamW) -> None:
        self._model, self._optimizer = model, optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, moments and step counts, not copies where they exist; before the first step the rest is zero."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._model.named_parameters():
            state = self._optimizer.state.get(parameter) or {
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
                "step": torch.zeros((), device=parameter.device),
            }
            tensors[f"master.{name}"] = parameter
            tensors[f"moment1.{name}"] = state["exp_avg"]
            tensors[f"moment2.{name}"] = state["exp_avg_sq"]
            tensors[f"step.{name}"] = state["step"]
        return tensors

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy what `tensors` returned, here or in another process, back in place."""
        for name, parameter in self._model.named_parameters():
            parameter.copy_(tensors[f"master.{name}"])
            self._optimizer.state[parameter] = {
                key: tensors[f"{prefix}.{name}"].to(parameter.device, copy=True)
                for key, prefix in (("exp_avg", "moment1"), ("exp_avg_sq", "moment2"), ("step", "step"))
            }
