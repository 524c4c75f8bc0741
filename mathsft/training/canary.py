"""What a checkpoint's weights make of a fixed text, as the trainer computes it; comparing is the evaluator's business."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from mathsft.data.examples import load_template
from mathsft.records import Canary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_CANARY_TOKENS = 65
"""The first is only given: 64 log probabilities, over which the noise of bf16 averages out."""


def canary_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return the tokens of the text: the start of a shipped prompt, whatever prompt is trained on."""
    token_ids: list[int] = tokenizer(load_template("r1_zero"), verbose=False)["input_ids"]
    return tuple(token_ids[:NUM_CANARY_TOKENS])


@torch.no_grad()
def make_canary(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    token_ids: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Canary:
    """Return the canary of these weights; layers compute in the dtype, the head in fp32, and the model keeps its own."""
    tensors = {f"model.{name}": weight.to(device, dtype) for name, weight in weights.items()}
    ids_T = torch.tensor(token_ids, device=device)
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # that of packed rows wants to be told of their segments
    try:
        logprobs_T: Tensor = functional_call(_TokenLogprobs(model), tensors, (ids_T,))
    finally:
        model.set_attn_implementation(attention)
    return Canary(token_ids, tuple(logprobs_T.tolist()))


class _TokenLogprobs(nn.Module):
    """The log probability of every token but the first, in nats."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_T: Tensor) -> Tensor:
        hidden_TE = self.model.base_model(input_ids=ids_T[None, :-1], use_cache=False).last_hidden_state[0]
        head = self.model.get_output_embeddings()
        bias_V = None if head.bias is None else head.bias.float()
        logits_TV = nn.functional.linear(hidden_TE.float(), head.weight.float(), bias_V)
        return logits_TV.log_softmax(1).gather(1, ids_T[1:, None])[:, 0]
