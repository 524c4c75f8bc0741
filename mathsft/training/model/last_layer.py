"""The last layer computes its MLP only where a hidden state predicts a target; `model.patches` applies it.

After the attention of the last layer no token needs another one, and the hidden states of prompt tokens are not read. So
the second half of this layer, forward and backward, needs the predicting tokens only.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn


@functools.cache
def patched_class(kind: Any) -> type[nn.Module]:
    """Return a subclass that returns the hidden states of the tokens predictors_N only (1 x N x E), if these are given."""

    def forward(
        layer: Any, hidden_states: Tensor, *args: Any, predictors_N: Tensor | None = None, **arguments: Any
    ) -> Tensor:
        if predictors_N is None:
            return kind.forward(layer, hidden_states, *args, **arguments)  # type: ignore[no-any-return]
        return _predicting_states(layer, hidden_states, predictors_N, **arguments)

    return type(kind.__name__, (kind,), {"forward": forward, "selects_predictors": True})


@torch.no_grad()
def covers(module: nn.Module) -> bool:
    """Return whether the module is a model's last layer, and adds attention and MLP as `_predicting_states` does."""
    attention = getattr(module, "self_attn", None)
    config, index = getattr(attention, "config", None), getattr(attention, "layer_idx", None)
    if config is None or index is None or index != config.num_hidden_layers - 1:
        return False
    generator = torch.Generator().manual_seed(0)
    head_dim = getattr(attention, "head_dim", 0)
    hidden_BTE = torch.randn(2, 3, config.hidden_size, generator=generator)
    cos_BTD, sin_BTD = (torch.randn(2, 3, head_dim, generator=generator) for _ in range(2))
    arguments = {"attention_mask": None, "position_embeddings": (cos_BTD, sin_BTD)}
    predictors_N = torch.tensor([4, 1])
    try:
        expected_BTE = module(hidden_BTE, **arguments)
        actual_1NE = _predicting_states(module, hidden_BTE, predictors_N, **arguments)
    except (AttributeError, TypeError, RuntimeError, ValueError):  # it has other parts, or needs other arguments
        return False
    expected_NE = expected_BTE.flatten(0, 1)[predictors_N]
    return torch.allclose(actual_1NE[0], expected_NE, rtol=1e-5, atol=1e-5)


def selects_predictors(model: nn.Module) -> bool:
    """Return whether the model has this patch."""
    return any(getattr(module, "selects_predictors", False) for module in model.modules())


def _predicting_states(layer: Any, hidden_BTE: Tensor, predictors_N: Tensor, **arguments: Any) -> Tensor:
    """Return the layer's output of the tokens predictors_N, indices into the flattened B x T."""
    attended_BTE, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_BTE), **arguments)
    states_1NE = (hidden_BTE + attended_BTE).flatten(0, 1).index_select(0, predictors_N)[None]
    out_1NE: Tensor = states_1NE + layer.mlp(layer.post_attention_layernorm(states_1NE))
    return out_1NE
