"""AdamW over fp32 master copies of the weights that train."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from mathsft.config.schema import TrainingSettings

_EPSILON = 1e-8
_ALIGNMENT = 64
"""Every weight starts at a multiple of this many elements, so that two weights never share a cache line."""

_NORM_BLOCK = 16_384
"""On a CPU torch adds the squares of a vector one after the other in fp32. This gives the norm of 135 million elements with
an error of 1.5 %, and the norm of this many elements with an error of 1e-7."""


def apply_adamw(
    tensors: Sequence[list[Tensor]], training: TrainingSettings, step: int, learning_rate: float, weight_decay: float
) -> None:
    """Apply step 1, 2, … of fused AdamW in place.

    tensors are the master weights, gradients, first moments and second moments, with one fp32 tensor per weight.
    """
    weights, gradients, moments1, moments2 = tensors
    adamw(
        weights,
        gradients,
        moments1,
        moments2,
        max_exp_avg_sqs=[],
        state_steps=[torch.tensor(step - 1.0, device=weight.device) for weight in weights],
        fused=True,
        amsgrad=False,
        beta1=training.beta1,
        beta2=training.beta2,
        lr=learning_rate,
        weight_decay=weight_decay,
        eps=_EPSILON,
        maximize=False,
    )


def blockwise_norm(flat: Tensor) -> Tensor:
    """Return the L2 norm of a vector as the norm of the norms of its blocks, which is accurate for long vectors."""
    num_whole = len(flat) // _NORM_BLOCK * _NORM_BLOCK
    whole, rest = flat[:num_whole].view(-1, _NORM_BLOCK), flat[num_whole:]
    norms = torch.cat([torch.linalg.vector_norm(whole, dim=1), torch.linalg.vector_norm(rest, dim=0, keepdim=True)])
    norm: Tensor = torch.linalg.vector_norm(norms)
    return norm


class MasterAdamW:
    """Fused AdamW with weight decay for matrices (embeddings included), without it for biases and norms.

    All weights are in one fp32 tensor, and so are their gradients and moments: the overhead of a step does not grow with
    the number of weights. The model computes with a copy in its own dtype, or with the master weights if this is fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        training: TrainingSettings,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Start from these weights of the parameters that train, and give the model a copy of them in the dtype."""
        self._model = model
        self._training = training
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._parameters = dict(sorted(trained, key=lambda item: item[1].ndim < 2))
        self._parts: dict[str, slice] = {}
        end = self._num_decayed = 0
        for name, parameter in self._parameters.items():
            self._parts[name] = slice(end, end + parameter.numel())
            end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
            if parameter.ndim >= 2:
                self._num_decayed = end
        self._flat = {kind: torch.zeros(end, device=device) for kind in ("master", "gradient", "moment1", "moment2")}
        for name, master in self.master_weights().items():
            master.copy_(weights[name])
        self._bind(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the next update depends on, not copied: master.<name>, moment1.<name>, moment2.<name>."""
        return {
            f"{kind}.{name}": view
            for kind in ("master", "moment1", "moment2")
            for name, view in self._views(self._flat[kind]).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors that `tensors` returned, in this or another process, into the optimizer and the model."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self._update_model()

    def master_weights(self) -> dict[str, Tensor]:
        """Return the fp32 weights by parameter name, not copied."""
        return self._views(self._flat["master"])

    def move_to(self, device: torch.device) -> None:
        """Move all tensors of the optimizer and of the model to the device."""
        self._flat = {kind: flat.to(device) for kind, flat in self._flat.items()}
        self._bind(self._computed.dtype)

    def collect_gradients(self, *, first: bool) -> None:
        """Move the model's gradients into the step's fp32 gradient: replace it if first, else add to it."""
        gradients = {name: parameter.grad for name, parameter in self._parameters.items() if parameter.grad is not None}
        collect = torch._foreach_copy_ if first else torch._foreach_add_
        collect([self._gradients[name] for name in gradients], [*gradients.values()])
        self._model.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the collected gradient."""
        return blockwise_norm(self._flat["gradient"])

    def update(self, step: int, learning_rate: float, gradient_scale: float) -> None:
        """Apply step 1, 2, … with gradient_scale times the collected gradient, and consume it."""
        if gradient_scale != 1:
            self._flat["gradient"].mul_(gradient_scale)
        decayed, others = slice(None, self._num_decayed), slice(self._num_decayed, None)
        for part, weight_decay in ((decayed, self._training.weight_decay), (others, 0.0)):
            tensors = [[flat[part]] for flat in self._flat.values()]
            if tensors[0][0].numel():
                apply_adamw(tensors, self._training, step, learning_rate, weight_decay)
        self._update_model()

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the part of each weight in a tensor of all weights, by parameter name, not copied."""
        return {name: flat[part].view(self._parameters[name].shape) for name, part in self._parts.items()}

    def _bind(self, dtype: torch.dtype) -> None:
        """Make the model's parameters views of one tensor in the dtype; for fp32 that is the tensor of master weights."""
        self._computed = self._flat["master"].to(dtype)
        for name, view in self._views(self._computed).items():
            self._parameters[name].grad = None
            self._parameters[name].data = view
        self._gradients = self._views(self._flat["gradient"])
        # This moves the buffers, which keep their precision: rotary positions need fp32.
        self._model.to(self._computed.device)

    def _update_model(self) -> None:
        if self._computed is not self._flat["master"]:
            self._computed.copy_(self._flat["master"])
