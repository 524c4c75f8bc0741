"""Shards a model's weights over the ranks of a group with FSDP2, and updates them with AdamW.

Every rank holds a shard of each fp32 weight, gradient and moment. A layer's weights are gathered, in the training precision,
only while it computes. Source: torch.distributed.fsdp.fully_shard; Zhao et al. 2023, arXiv:2304.11277.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from mathsft.config.schema import TrainingSettings
from mathsft.training.model.loss import MicroBatchLoss
from mathsft.training.optimizer import apply_adamw
from mathsft.training.rank_group import RankGroup
from mathsft.training.state import BaseModel


def shard(base: BaseModel, dtype: torch.dtype, device: torch.device, ranks: RankGroup) -> MicroBatchLoss:
    """Return a copy of the base model with its loss, sharded over the ranks; base keeps its own weights on the host.

    The copy computes in the dtype. Gradients are summed in fp32 over ranks and over backward passes.
    """
    loss_module = MicroBatchLoss(deepcopy(base.model))
    mesh = init_device_mesh(device.type, (ranks.size,))
    # Inputs are not cast: positions and masks keep their precision, as on a single device.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers = [module for module in loss_module.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*layers, loss_module):
        fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        # The loss is divided by the response tokens of the whole batch, so gradients are summed, not averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no reduction that multiplies before it sums
    return loss_module


class ShardedAdamW:
    """AdamW with the interface of MasterAdamW for a sharded model: each rank updates its own shards."""

    def __init__(
        self, loss_module: MicroBatchLoss, training: TrainingSettings, device: torch.device, ranks: RankGroup
    ) -> None:
        """Start from the weights of the model."""
        self._training, self._device, self._ranks = training, device, ranks
        self._parameters = {
            name: _as_dtensor(parameter)
            for name, parameter in loss_module.model.named_parameters()
            if parameter.requires_grad
        }
        self._moments = {
            kind: {name: torch.zeros_like(parameter.detach()) for name, parameter in self._parameters.items()}
            for kind in ("moment1", "moment2")
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the sharded tensors that the next update depends on, by the names of MasterAdamW, not copied."""
        kinds = {"master": self.master_weights(), **self._moments}
        return {f"{kind}.{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}

    def tensors_to_save(self) -> dict[str, Tensor]:
        """Return the sharded tensors, which a rank group gathers on the host."""
        return self.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Shard the whole tensors that rank 0 passes, by the names of `tensors`; the other ranks pass none."""
        for name, tensor in self.tensors().items():
            sharded = _as_dtensor(tensor)
            whole = tensors[name] if self._ranks.is_first else torch.empty(sharded.shape)
            loaded = distribute_tensor(whole.to(self._device), sharded.device_mesh, sharded.placements)
            sharded.to_local().copy_(loaded.to_local())

    def master_weights(self) -> dict[str, Tensor]:
        """Return the sharded fp32 weights by parameter name, not copied."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def move_to(self, device: torch.device) -> None:
        """Do nothing for the ranks' own device; raise RuntimeError for another one, because ranks cannot move."""
        if device != self._device:
            raise RuntimeError(f"{self._ranks.size} ranks train on their own devices and cannot leave them")

    @contextmanager
    def collecting(self, *, first: bool, last: bool) -> Iterator[None]:
        """Do nothing: FSDP2 adds up the gradients of backward passes, and `update` removes them."""
        yield

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the whole gradient, the same on every rank."""
        squares = [_local(gradient).square().sum() for _, gradient in self._gradients()]
        return self._ranks.sum(torch.stack(squares).sum()).sqrt()

    def update(self, step: int, learning_rate: float, gradient_scale: float) -> None:
        """Apply step 1, 2, … with gradient_scale times the gradient, and remove the gradient."""
        for decays in (True, False):
            # Some ranks have an empty shard of a weight that has fewer rows than there are ranks.
            gradients = {
                name: local
                for name, gradient in self._gradients()
                if (gradient.ndim >= 2) == decays and (local := _local(gradient)).numel()
            }
            for gradient in gradients.values():
                gradient.mul_(gradient_scale)
            parts: tuple[Mapping[str, Tensor], ...] = (self._parameters, *self._moments.values())
            weights, *moments = ([_local(part[name]) for name in gradients] for part in parts)
            weight_decay = self._training.weight_decay if decays else 0.0
            apply_adamw([weights, [*gradients.values()], *moments], self._training, step, learning_rate, weight_decay)
        for parameter in self._parameters.values():
            parameter.grad = None

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                yield name, parameter.grad


def _as_dtensor(tensor: Tensor) -> DTensor:
    assert isinstance(tensor, DTensor)
    return tensor


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's shard, which may be empty, not copied."""
    return _as_dtensor(tensor.detach()).to_local()
