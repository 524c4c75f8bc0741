"""What a checkpoint's weights make of a fixed text, as the trainer computes it; comparing is the evaluator's business."""

from collections.abc import Iterable, Mapping
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from mathsft.records import Example, LogprobCheck

NUM_CHECK_TOKENS = 65
"""The first is only given: 64 log probabilities, over which the noise of bf16 averages out."""

CHANGED_SHARE = 0.1
"""Of a tensor's root mean square is the noise that makes another model of a pretrained one, but a tame one."""
LEAST_SCALE = 0.1
"""Stands for the root mean square of a tensor that is all zero, such as a new bias."""


def check_token_ids(examples: Iterable[Example]) -> tuple[int, ...]:
    """Return the tokens of the text, that of the first examples: what is far from them, weights predict only wildly."""
    tokens = chain.from_iterable(example.prompt_ids + example.response_ids for example in examples)
    return tuple(islice(tokens, NUM_CHECK_TOKENS))


@torch.no_grad()
def make_logprob_check(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    token_ids: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> LogprobCheck:
    """Return the logprob check of these weights: layers compute in the dtype, the head in fp32; the model keeps its own."""
    tensors = {f"model.{name}": weight.to(device, dtype) for name, weight in weights.items()}
    ids_T = torch.tensor(token_ids, device=device)
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # that of packed rows wants to be told of their segments
    try:
        logprobs_T: Tensor = functional_call(_TokenLogprobs(model), tensors, (ids_T,))
    finally:
        model.set_attn_implementation(attention)
    return LogprobCheck(token_ids, tuple(logprobs_T.tolist()))


def changed_copy(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the weights with noise on every value of every tensor: of a tenth of the tensor's root mean square.

    A model with any of its tensors from the one and the others from the other predicts what neither does.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, weight in weights.items():
        values = weight.float()
        scale = CHANGED_SHARE * float(values.square().mean().sqrt()) or CHANGED_SHARE * LEAST_SCALE
        changed[name] = torch.randn(values.shape, generator=generator).mul_(scale).add_(values).to(weight.dtype)
    return changed


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
