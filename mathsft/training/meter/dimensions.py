"""Reads the sizes of a loaded model of the Llama or Qwen2 kind, from which operations and memory are counted."""

from typing import TYPE_CHECKING

from mathsft.footprint import Dimensions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dimensions_of(model: "PreTrainedModel") -> Dimensions | None:
    """Return a model's sizes, or None if it has other matrices: experts, an MLP without a gate, learned positions."""
    try:
        sizes = Dimensions(model.config)
    except AttributeError:
        return None
    matrices = sum(weight.numel() for weight in model.base_model.parameters() if weight.ndim >= 2)
    return sizes if matrices == sizes.num_matrix_weights else None
