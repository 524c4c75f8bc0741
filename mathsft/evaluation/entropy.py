"""The entropy of what a vLLM engine generates, tapped where it samples; it changes no logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

ROW = "entropy_row"
"""Key in SamplingParams.extra_args that marks a request, with its row in the tap."""

_CHUNK_LOGITS = {"cpu": 2**18, "cuda": 2**24}
"""Logits worked on at once: what fits a core's cache, or what bounds the memory that vLLM did not plan for."""


class EntropyTap(LogitsProcessor):  # type: ignore[misc]  # vLLM is untyped here
    """Keeps, on the engine's device, the entropy of every distribution that a token of a marked request is drawn from."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device, self._is_pin_memory = device, is_pin_memory
        self._requests: dict[int, tuple[int, list[int]]] = {}
        """Slot in the batch -> the request's row, and its output so far, a list that vLLM appends to."""
        self._temperature = 1.0
        self._entropy_RT = torch.empty(0, 0)

    def start(self, num_requests: int, max_tokens: int, temperature: float) -> None:
        """Forget what was kept, and make room for this many requests, sampled at one temperature, 0 for greedy."""
        self._temperature = temperature or 1.0
        self._entropy_RT = torch.zeros(num_requests, max_tokens, device=self._device)

    def means(self, num_tokens: Sequence[int]) -> list[float]:
        """Return the mean entropy in nats of each request's first num_tokens tokens."""
        num_tokens_R = torch.tensor(num_tokens)
        entropy_RT = self._entropy_RT.cpu()
        is_returned_RT = torch.arange(entropy_RT.shape[1]) < num_tokens_R[:, None]
        means: list[float] = (entropy_RT.where(is_returned_RT, 0).sum(1) / num_tokens_R).tolist()
        return means

    def is_argmax_invariant(self) -> bool:
        """Return False, although it is: vLLM would leave it out where all requests are greedy."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests through the batch."""
        process_dict_updates(self._requests, batch_update, _request)

    def apply(self, logits: Tensor) -> Tensor:
        """Keep the entropies of this step; the logits, B x V in fp32, are those before temperature and top_p."""
        if self._requests:
            # The place is the number of tokens drawn before, not of steps: while a prompt is read in chunks, the logits
            # after each chunk come by, too, and those after the last overwrite them.
            places = [(slot, row, len(output_ids)) for slot, (row, output_ids) in self._requests.items()]
            places_R3 = torch.tensor(places, pin_memory=self._is_pin_memory).to(self._device, non_blocking=True)
            slots_R, rows_R, positions_R = places_R3.unbind(1)
            self._entropy_RT[rows_R, positions_R] = entropy(logits, self._temperature)[slots_R]
        return logits


def entropy(logits_BV: Tensor, temperature: float) -> Tensor:
    """Return the entropy in nats of softmax(logits / temperature) of each row."""
    num_rows = max(1, _CHUNK_LOGITS[logits_BV.device.type] // logits_BV.shape[1])
    return torch.cat([_entropy(chunk_CV, temperature) for chunk_CV in torch.split(logits_BV, num_rows)])


def _entropy(logits_CV: Tensor, temperature: float) -> Tensor:
    # With s = (x - max x) / T: H = log sum exp s - sum (s exp s) / sum exp s. One exponential, and no large number.
    shifted_CV = (logits_CV - logits_CV.amax(1, keepdim=True)).div_(temperature)
    weights_CV = shifted_CV.exp()
    total_C = weights_CV.sum(1)
    entropy_C: Tensor = total_C.log() - torch.linalg.vecdot(weights_CV, shifted_CV) / total_C
    return entropy_C


def _request(sampling: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> tuple[int, list[int]] | None:
    row = (sampling.extra_args or {}).get(ROW)
    return None if row is None else (row, output_ids)
