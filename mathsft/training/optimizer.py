"""AdamW over fp32 master copies of the weights that train."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from mathsft.config.schema import TrainingSettings
from mathsft.training.host_buffers import HostBuffers

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


def padded(part: slice) -> slice:
    """Return a weight's part of all weights together with the padding behind it."""
    return slice(part.start, -(-part.stop // _ALIGNMENT) * _ALIGNMENT)


class MasterAdamW:
    """Fused AdamW with weight decay for matrices (embeddings included), without it for biases and norms.

    All weights are in one fp32 tensor, and so are their gradients and moments: the overhead of a step does not grow with
    the number of weights. The model computes with a copy in its own dtype, or with the master weights if this is fp32.
    A parked optimizer has its master weights and moments in host memory, and nothing on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        training: TrainingSettings,
        dtype: torch.dtype,
        device: torch.device,
        buffers: HostBuffers,
    ) -> None:
        """Start from these weights, which train, by name; give the model a copy of them in the dtype on the device.

        The buffers are those of the model: its earlier optimizer must not be used any more.
        """
        self._model, self._training, self._dtype, self._buffers = model, training, dtype, buffers
        self._home = self._device = device
        """Where the model computes, and where it is now: the same device, or the host while it is parked."""
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._parameters = dict(sorted(trained, key=lambda item: item[1].ndim < 2))
        self._parts: dict[str, slice] = {}
        self._num_elements = self._num_decayed = 0
        for name, parameter in self._parameters.items():
            self._parts[name] = slice(self._num_elements, self._num_elements + parameter.numel())
            self._num_elements = padded(self._parts[name]).stop
            if parameter.ndim >= 2:
                self._num_decayed = self._num_elements
        self._state = {kind: self._new_state(kind) for kind in ("master", "moment1", "moment2")}
        for name, master in self.master_weights().items():
            master.copy_(weights[name])
        self._wake()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the next update depends on, not copied: master.<name>, moment1.<name>, moment2.<name>."""
        return self._named(self._state)

    def tensors_to_save(self) -> dict[str, Tensor]:
        """Return the same tensors in host memory, where they keep these values until the next update, save or park."""
        return self._named({kind: self._on_host(kind, flat) for kind, flat in self._state.items()})

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors that `tensors` returned, in this or another process, into the optimizer and the model."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self._update_model()

    def master_weights(self) -> dict[str, Tensor]:
        """Return the fp32 weights by parameter name, not copied."""
        return self._views(self._state["master"])

    def move_to(self, device: torch.device) -> None:
        """Park the optimizer on the host, or continue on its own device; the model's weights and buffers move with it."""
        if device == self._device == self._home:
            return
        self._state = {kind: self._moved(kind, flat, device) for kind, flat in self._state.items()}
        if device == self._home:
            self._wake()
        else:
            self._rest(device)

    @contextmanager
    def collecting(self, *, first: bool, last: bool) -> Iterator[None]:
        """Move the gradients of the body's backward pass into the step's fp32 gradient: replace it if first, else add to it.

        `last` marks the last pass of the step.
        """
        yield
        gradients = {name: parameter.grad for name, parameter in self._parameters.items() if parameter.grad is not None}
        collect = torch._foreach_copy_ if first else torch._foreach_add_
        collect([self._gradients[name] for name in gradients], [*gradients.values()])
        self._model.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the collected gradient."""
        return blockwise_norm(self._gradient)

    def update(self, step: int, learning_rate: float, gradient_scale: float) -> None:
        """Apply step 1, 2, … with gradient_scale times the collected gradient, and consume it."""
        if gradient_scale != 1:
            self._gradient.mul_(gradient_scale)
        for part in self._slices(self._num_elements):
            self._update_part(part, self._gradient[part], step, learning_rate)
        self._update_model()

    def _update_part(self, part: slice, gradient: Tensor, step: int, learning_rate: float) -> None:
        """Apply the step to a part of all weights, which has only matrices or no matrix; gradient is that of the part."""
        master, *moments = ([flat[part]] for flat in self._state.values())
        weight_decay = self._training.weight_decay if part.stop <= self._num_decayed else 0.0
        apply_adamw([master, [gradient], *moments], self._training, step, learning_rate, weight_decay)

    def _slices(self, num_elements: int) -> Iterator[slice]:
        """Yield slices of at most this many elements, first of the matrices and then of the other weights."""
        for start, end in ((0, self._num_decayed), (self._num_decayed, self._num_elements)):
            for first in range(start, end, num_elements):
                yield slice(first, min(first + num_elements, end))

    def _new_state(self, kind: str) -> Tensor:
        """Return zeros in the place of the master weights or of a moment."""
        return torch.zeros(self._num_elements, device=self._home)

    def _moved(self, kind: str, flat: Tensor, device: torch.device) -> Tensor:
        return flat.to(device) if device == self._home else self._on_host(kind, flat)

    def _on_host(self, kind: str, flat: Tensor) -> Tensor:
        """Return the tensor if it is on the host, else a copy in the model's host buffers."""
        if flat.device.type == "cpu":
            return flat
        return self._buffers.get(kind, self._num_elements, self._home).copy_(flat)

    def _wake(self) -> None:
        """Make the gradient and the model's copy of the weights on the device."""
        gradient = torch.zeros(self._num_elements, device=self._home)
        self._computed, self._gradient = self._computed_weights(), gradient
        self._gradients = self._views(gradient)
        self._give_model(self._views(self._computed), self._home)

    def _rest(self, device: torch.device) -> None:
        """Free the gradient and the model's copy of the weights; the parameters keep their shapes and have no memory."""
        nothing = torch.zeros((), dtype=self._dtype)
        self._computed = self._gradient = nothing
        self._gradients = {}
        self._give_model({name: nothing.expand(parameter.shape) for name, parameter in self._parameters.items()}, device)

    def _computed_weights(self) -> Tensor:
        """Return the weights with which the model computes, on its device; for fp32 these are the master weights."""
        return self._state["master"].to(self._dtype)

    def _give_model(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        for name, tensor in tensors.items():
            self._parameters[name].grad = None
            self._parameters[name].data = tensor
        # This moves the buffers, which keep their precision: rotary positions need fp32.
        self._model.to(device)
        self._device = device

    def _update_model(self) -> None:
        if self._computed is not self._state["master"]:
            self._computed.copy_(self._state["master"])

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the part of each weight in a tensor of all weights, by parameter name, not copied."""
        return {name: flat[part].view(self._parameters[name].shape) for name, part in self._parts.items()}

    def _named(self, flats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{kind}.{name}": view for kind, flat in flats.items() for name, view in self._views(flat).items()}
