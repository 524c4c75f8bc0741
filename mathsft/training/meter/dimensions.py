"""The sizes of a Llama or Qwen2 kind of model, from which operations and memory are counted; counts neither."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Dimensions:
    """A decoder of equal layers, each of full attention and a gated MLP, between an embedding and a head."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    vocabulary_size: int

    @property
    def num_layer_weights(self) -> int:
        """Return the entries of a layer's matrices: queries and output, keys and values; gate, up and down."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_key_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size


def dimensions(config: "PretrainedConfig") -> Dimensions:
    """Return the sizes in a configuration; raises AttributeError for one of other words."""
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
    """Return a model's sizes, None where it holds other matrices: experts, an MLP without a gate, learned positions."""
    try:
        found = dimensions(model.config)
    except AttributeError:
        return None
    matrices = sum(weight.numel() for weight in model.base_model.parameters() if weight.ndim >= 2)
    expected = found.num_layers * found.num_layer_weights + found.vocabulary_size * found.hidden_size
    return found if matrices == expected else None
