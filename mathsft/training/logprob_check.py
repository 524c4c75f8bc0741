"""Computes the log probabilities that a checkpoint's weights give to a fixed text; the evaluator compares its own."""

from collections.abc import Iterable, Mapping
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from mathsft.records import Example, LogprobCheck
from mathsft.training.cpu.memory import explained_shortage
from mathsft.training.model.attention import eager_attention

NUM_CHECK_TOKENS = 65
"""The first token is only context. The mean over the other 64 log probabilities averages out the rounding of bf16."""

_CHANGED_SHARE = 0.1
"""Noise of `changed_copy`, as a share of each tensor's root mean square: predictions differ, but logits stay moderate."""
_MIN_SCALE = 0.1
"""Used in place of the root mean square for a tensor of zeros, such as a new bias."""


def check_token_ids(examples: Iterable[Example]) -> tuple[int, ...]:
    """Return the first NUM_CHECK_TOKENS tokens of the examples; weights can have extreme logits on text of another kind."""
    tokens = chain.from_iterable(example.prompt_ids + example.response_ids for example in examples)
    return tuple(islice(tokens, NUM_CHECK_TOKENS))


@torch.no_grad()
def make_logprob_check(
    model: PreTrainedModel, weights: Mapping[str, Tensor], token_ids: tuple[int, ...], dtype: torch.dtype
) -> LogprobCheck:
    """Return the logprob check of these weights, with layers in the dtype and head in fp32; the model does not change.

    Raises OutOfMemoryError if a copy of the weights in the dtype does not fit beside the run.
    """
    what = "the logprob check's copy of the weights does not fit into memory"
    with explained_shortage(what, "free some, or take a smaller model"), eager_attention(model):
        tensors = {f"model.{name}": weight.to(model.device, dtype) for name, weight in weights.items()}
        ids_T = torch.tensor(token_ids, device=model.device)
        logprobs_T: Tensor = functional_call(_TokenLogprobs(model), tensors, (ids_T,))
    return LogprobCheck(token_ids, tuple(logprobs_T.tolist()))


def changed_copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy with noise on every value of every tensor, of _CHANGED_SHARE of the tensor's root mean square.

    An engine that replaces only some of the tensors gives other log probabilities than the weights, and other ones than
    the copy.
    """
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name, weight in weights.items():
        values = weight.float()
        scale = _CHANGED_SHARE * float(values.square().mean().sqrt()) or _CHANGED_SHARE * _MIN_SCALE
        changed[name] = torch.randn(values.shape, generator=generator).mul_(scale).add_(values).to(weight.dtype)
    return changed


class _TokenLogprobs(nn.Module):
    """Returns the log probability, in nats, of every token except the first."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_T: Tensor) -> Tensor:
        hidden_TE = self.model.base_model(input_ids=ids_T[None, :-1], use_cache=False).last_hidden_state[0]
        head = self.model.get_output_embeddings()
        bias_V = None if head.bias is None else head.bias.float()
        logits_TV = nn.functional.linear(hidden_TE.float(), head.weight.float(), bias_V)
        return logits_TV.log_softmax(1).gather(1, ids_T[1:, None])[:, 0]
