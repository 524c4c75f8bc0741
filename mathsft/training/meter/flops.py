"""Counts the floating-point operations that training a model needs, from the model's configuration.

A multiplication and an addition are two operations. Recomputation (gradient checkpointing) is not counted; nor are norms,
activations, softmax and the optimizer, as in the papers cited below.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mathsft.footprint import Dimensions

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FLOPS_PER_WEIGHT = 6
"""Per weight and token: 2 forward and 4 backward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""

_FROZEN_FLOPS_PER_WEIGHT = 4
"""Per weight and token: 2 forward, and 2 backward for the gradient of the layer's input."""


@dataclass(frozen=True)
class ModelFlops:
    """Operations of a forward and backward pass, by cause."""

    per_token: int
    """For a token in all layers, without the products of attention scores and weights."""
    per_attended_token: int
    """For a pair of a token and a token that it attends to (itself included): T causal tokens have T (T + 1) / 2 pairs."""
    per_predicted_token: int
    """For the logits of one predicted token."""

    def total(self, num_tokens: int, num_attended_tokens: int, num_predicted_tokens: int) -> int:
        """Return the operations of these numbers of tokens, attending pairs and predicted tokens."""
        return (
            num_tokens * self.per_token
            + num_attended_tokens * self.per_attended_token
            + num_predicted_tokens * self.per_predicted_token
        )


def adapter_flops(config: "PretrainedConfig", num_trained: int) -> ModelFlops:
    """Return the operations of a model whose own weights do not train, with an adapter of this many parameters.

    A frozen weight needs no gradient of its own, which saves a third of its operations; a weight of the adapter costs as
    much as one that trains.
    """
    whole = model_flops(config)
    return ModelFlops(
        per_token=whole.per_token * _FROZEN_FLOPS_PER_WEIGHT // _FLOPS_PER_WEIGHT + _FLOPS_PER_WEIGHT * num_trained,
        per_attended_token=whole.per_attended_token,
        per_predicted_token=whole.per_predicted_token * _FROZEN_FLOPS_PER_WEIGHT // _FLOPS_PER_WEIGHT,
    )


def model_flops(config: "PretrainedConfig") -> ModelFlops:
    """Return the operations of a model of the Llama or Qwen2 kind: full attention, gated MLP.

    Each weight costs 6 operations per token, the embedding none (Kaplan et al. 2020). A pair of tokens in attention costs 12
    per layer, head and head dimension (Chowdhery et al. 2022, arXiv:2204.02311, appendix B: 12 L H Q T). Unlike that paper,
    this counts only pairs that attend, not the half that a causal mask hides.
    """
    sizes = Dimensions(config)
    return ModelFlops(
        per_token=_FLOPS_PER_WEIGHT * sizes.num_layers * sizes.num_layer_weights,
        per_attended_token=2 * _FLOPS_PER_WEIGHT * sizes.num_layers * sizes.num_heads * sizes.head_dim,
        per_predicted_token=_FLOPS_PER_WEIGHT * sizes.hidden_size * sizes.vocabulary_size,
    )
