"""Counts the floating-point operations that training a model needs, from its configuration; measures and runs nothing.

A multiplication and an addition are two operations. What is computed twice (gradient checkpointing) counts once, and norms,
activations, softmax and the optimizer not at all, as in the papers named below.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mathsft.training.meter.dimensions import dimensions

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FLOPS_PER_WEIGHT = 6
"""Per token that a matrix is applied to: 2 forward, 4 backward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""


@dataclass(frozen=True)
class ModelFlops:
    """Operations of forward and backward pass, by what causes them."""

    per_token: int
    """For a token in all layers, without its attention to others."""
    per_attended_token: int
    """For a token and one that it attends to, itself among them: T causal tokens make T (T + 1) / 2 such pairs."""
    per_predicted_token: int
    """For a token whose successor is predicted: its logits."""

    def total(self, num_tokens: int, num_attended_tokens: int, num_predicted_tokens: int) -> int:
        """Return the operations of that many tokens, of pairs that attend, and of tokens with logits."""
        return (
            num_tokens * self.per_token
            + num_attended_tokens * self.per_attended_token
            + num_predicted_tokens * self.per_predicted_token
        )


def model_flops(config: "PretrainedConfig") -> ModelFlops:
    """Return the operations of a Llama or Qwen2 kind of model: full attention, gated MLP.

    Weights cost 6 each per token, embeddings nothing (Kaplan et al. 2020); a pair of tokens in attention costs 12 per layer,
    head and head dimension (Chowdhery et al. 2022, arXiv:2204.02311, appendix B: 12 L H Q T). Unlike there, only pairs that
    do attend are counted, not the half that a causal mask hides.
    """
    sizes = dimensions(config)
    return ModelFlops(
        per_token=FLOPS_PER_WEIGHT * sizes.num_layers * sizes.num_layer_weights,
        per_attended_token=2 * FLOPS_PER_WEIGHT * sizes.num_layers * sizes.num_heads * sizes.head_dim,
        per_predicted_token=FLOPS_PER_WEIGHT * sizes.hidden_size * sizes.vocabulary_size,
    )
