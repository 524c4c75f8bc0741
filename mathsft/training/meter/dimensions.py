"""Reads the sizes of a model of the Llama or Qwen2 kind, from which operations and memory are counted."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Dimensions:
    """The sizes of a decoder: embedding, equal layers of full attention and a gated MLP, and a head."""

    def __init__(self, config: "PretrainedConfig") -> None:
        """Read the sizes from a configuration. Raises AttributeError if the configuration has other names."""
        self.hidden_size: int = config.hidden_size
        self.intermediate_size: int = config.intermediate_size
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_key_heads: int = getattr(config, "num_key_value_heads", None) or self.num_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        self.vocabulary_size: int = config.vocab_size

    @property
    def num_layer_weights(self) -> int:
        """Return the number of matrix entries of a layer: query, output, key and value; gate, up and down."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_key_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size


def dimensions_of(model: "PreTrainedModel") -> Dimensions | None:
    """Return a model's sizes, or None if it has other matrices: experts, an MLP without a gate, learned positions."""
    try:
        sizes = Dimensions(model.config)
    except AttributeError:
        return None
    matrices = sum(weight.numel() for weight in model.base_model.parameters() if weight.ndim >= 2)
    expected = sizes.num_layers * sizes.num_layer_weights + sizes.vocabulary_size * sizes.hidden_size
    return sizes if matrices == expected else None
