"""Reads the sizes of a model of the Llama or Qwen2 kind, from which operations and memory are counted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a decoder: embedding, equal layers of full attention and a gated MLP, and a head."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    vocabulary_size: int

    @property
    def num_layer_weights(self) -> int:
        """Return the number of matrix entries of a layer: query, output, key and value; gate, up and down."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_key_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size


def dimensions(config: "PretrainedConfig") -> Dimensions:
    """Return the sizes in a configuration. Raises AttributeError if the configuration has other names."""
    num_heads = config.num_attention_heads
    return Dimensions(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=num_heads,
        num_key_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
        vocabulary_size=config.vocab_size,
    )


def dimensions_of(model: "PreTrainedModel") -> Dimensions | None:
    """Return a model's sizes, or None if it has other matrices: experts, an MLP without a gate, learned positions."""
    try:
        sizes = dimensions(model.config)
    except AttributeError:
        return None
    matrices = sum(weight.numel() for weight in model.base_model.parameters() if weight.ndim >= 2)
    expected = sizes.num_layers * sizes.num_layer_weights + sizes.vocabulary_size * sizes.hidden_size
    return sizes if matrices == expected else None
